// Takes small models from the mesh into its EEPROM and keeps them over a reset: dense networks and
// decision forests of at most 900 bytes. Its own sensors are two analog pins.
//
//   maille deploy small-forest --on keeps-models-1
#include <Maille.h>

uint8_t arena[256];

const maille::Sensor sensors[] = {
  {"A0", 1, mailleAnalog, A0},
  {"A1", 1, mailleAnalog, A1},
};
maille::Senses senses;
maille::Delivery models;

void setup() {
  Maille.keepModels(models, arena, maille::tiny::SMALL_LAYERS);
  Maille.sensors(senses, sensors);
  Maille.begin("keeps models", arena);
}

void loop() { Maille.loop(); }
