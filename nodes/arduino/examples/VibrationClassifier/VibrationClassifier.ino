// Tells whether a machine stands still (0), turns (1) or turns out of balance (2), from an analog
// accelerometer on A0: 64 samples at 1 kHz, whenever somebody in the mesh asks for it.
//
//   maille models add vibration.tiny
//   maille sense vibration --on vibration-1 --sensor accelerometer --every 2s
#include <Maille.h>

#include "model.h"

uint8_t arena[model_arena_bytes];

const maille::Sensor sensors[] = {
  {"accelerometer", 0, mailleAnalogEveryMillisecond, A0},
  {"button", 1, mailleDigital, 2},
};
maille::Senses senses;

void setup() {
  pinMode(2, INPUT_PULLUP);
  Maille.model(model);
  Maille.sensors(senses, sensors);
  Maille.begin("vibration", arena);
}

void loop() { Maille.loop(); }
