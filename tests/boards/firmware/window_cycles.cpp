// Cycles of a convolution or depthwise convolution, counted between marks. data.h has the layer; the same
// weights and records lie at the beginning of the EEPROM.
#include <avr/interrupt.h>
#include <avr/io.h>
#include <avr/sleep.h>

#include "maille/kernels.h"
#include "maille/kernels_plain.h"

using namespace maille;
using namespace maille::tiny;

#include "data.h"

uint8_t x[inputs], y[outputs];
volatile uint8_t same = 1;

uint16_t checksum() {
  uint16_t sum = 0;
  for (uint16_t i = 0; i < outputs; i++) sum = static_cast<uint16_t>(sum * 31 + y[i]);
  return sum;
}

void tuned(const ConvolutionJob& job, Memory memory) {
  if (depthwise) {
    depthwise_convolution(job, memory, false);
  } else {
    convolution(job, memory, false);
  }
}

template <typename Reader>
void plain(const ConvolutionJob& job, Reader reader) {
  if (depthwise) {
    depthwise_plain(reader, job);
  } else {
    convolution_plain(reader, job);
  }
}

int main() {
  for (uint16_t i = 0; i < inputs; i++) {
    x[i] = static_cast<uint8_t>(i * 37 + 11);
  }
  ConvolutionJob job;
  job.window = window;
  job.weights = weights;
  job.channels = channels;
  job.x = x;
  job.y = y;
  job.pad_value = 5;
  job.zero = 3;
  job.low = 0;
  job.high = 255;
  GPIOR0 = 1;
  plain(job, FlashReader());
  GPIOR0 = 2;
  const uint16_t wanted = checksum();
  GPIOR0 = 3;
  tuned(job, Memory::FLASH);
  GPIOR0 = 4;
  if (checksum() != wanted) same = 0;
  job.weights = nullptr;
  job.channels = job.weights + sizeof weights;
  GPIOR0 = 5;
  tuned(job, Memory::EEPROM);
  GPIOR0 = 6;
  if (checksum() != wanted) same = 0;
  GPIOR0 = 7;
  plain(job, EepromReader());
  GPIOR0 = 8;
  cli();
  sleep_enable();
  sleep_cpu();
}
