// Cycles of a dense layer whose weights and records lie at the beginning of the EEPROM, counted between
// marks. data.h has its sizes.
#include <avr/interrupt.h>
#include <avr/io.h>
#include <avr/sleep.h>

#include "maille/kernels.h"
#include "maille/kernels_plain.h"

using namespace maille;
using namespace maille::tiny;

#include "data.h"

uint8_t x[inputs], tuned[outputs], plain[outputs];

int main() {
  for (uint16_t i = 0; i < inputs; i++) {
    x[i] = static_cast<uint8_t>(i * 37 + 11);
  }
  DenseJob job;
  job.weights = nullptr;
  job.channels = job.weights + sizeof weights;
  job.x = x;
  job.y = tuned;
  job.inputs = inputs;
  job.outputs = outputs;
  job.zero = 3;
  job.low = 0;
  job.high = 255;
  DenseJob second = job;
  second.y = plain;
  GPIOR0 = 1;
  dense(job, Memory::EEPROM, false);
  GPIOR0 = 2;
  dense_plain(EepromReader(), second);
  GPIOR0 = 3;
  cli();
  sleep_enable();
  sleep_cpu();
}
