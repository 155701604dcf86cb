// Cycles of the dense kernels, counted between marks. data.h has the layer.
#include <avr/io.h>
#include <avr/sleep.h>
#include <avr/interrupt.h>

#include "maille/kernels.h"
#include "maille/kernels_plain.h"

using namespace maille;
using namespace maille::tiny;

#include "data.h"

uint8_t x[inputs];
uint8_t tuned[outputs], plain[outputs], wide[outputs], ram[outputs];

int main() {
  for (uint16_t i = 0; i < inputs; i++) {
    x[i] = static_cast<uint8_t>(i * 37 + 11);
  }
  DenseJob job;
  job.weights = weights;
  job.channels = channels;
  job.x = x;
  job.y = tuned;
  job.inputs = inputs;
  job.outputs = outputs;
  job.zero = 3;
  job.low = 0;
  job.high = 255;
  DenseJob second = job;
  second.y = plain;
  DenseJob third = job;
  third.y = wide;
  GPIOR0 = 1;
  dense(job, Memory::FLASH, false);
  GPIOR0 = 2;
  dense_plain(FlashReader(), second);
  GPIOR0 = 3;
  dense(third, Memory::FLASH, true);
  GPIOR0 = 4;
  cli();
  sleep_enable();
  sleep_cpu();
}
