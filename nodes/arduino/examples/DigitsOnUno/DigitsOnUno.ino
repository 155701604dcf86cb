// Reads handwritten digits of 8 by 8 pixels that other members of the mesh send:
//
//   maille models add digits-mlp.tiny
//   maille run digits-mlp -i pixels.npy
//
// The model lies in the flash. `maille flash uno --model other.tiny` puts another one in its place.
#include <Maille.h>

#include "model.h"

uint8_t arena[model_arena_bytes];

void setup() {
  Maille.model(model);
  Maille.begin("digits on an uno", arena);
}

void loop() { Maille.loop(); }
