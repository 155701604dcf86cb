// Cycles of whole models, counted between marks, and their first self-test. data.h has the model.
#include <avr/interrupt.h>
#include <avr/io.h>
#include <avr/sleep.h>

#include "maille/model.h"

using namespace maille;
using namespace maille::tiny;

#include "data.h"

alignas(4) uint8_t arena[measured_arena_bytes];
volatile uint8_t fault = 255, ran = 255;

int main() {
  const Model model(Memory::FLASH, measured.document, measured.size, *measured.layers);
  fault = static_cast<uint8_t>(model.check(sizeof arena));
  if (fault == 0) {
    fault = static_cast<uint8_t>(model.self_test(arena, sizeof arena));
  }
  Tensor tensor;
  model.input(0, tensor);
  for (uint16_t i = 0; i < tensor.size(); i++) {
    arena[tensor.offset + i] = pgm_read_byte(&first_input[i]);
  }
  GPIOR0 = 1;
  ran = model.run(arena, sizeof arena) ? 1 : 0;
  GPIOR0 = 2;
  cli();
  sleep_enable();
  sleep_cpu();
}
