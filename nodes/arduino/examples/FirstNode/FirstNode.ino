// The smallest node: it joins the mesh, says what it is, and shows on its LED whether a gateway
// speaks with it. Run `maille gateway` on the computer at the other end of the cable.
#include <Maille.h>

uint8_t arena[128];

void setup() {
  pinMode(LED_BUILTIN, OUTPUT);
  Maille.begin("first node", arena);
}

void loop() {
  Maille.loop();
  digitalWrite(LED_BUILTIN, Maille.joined() ? HIGH : LOW);
}
