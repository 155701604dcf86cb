#include "measure.h"

#include <string.h>

#include "kernels.h"

namespace maille {

namespace {

constexpr uint8_t MEASURED_INPUTS = 64, MEASURED_OUTPUTS = 32;

}  // namespace

// Times one dense layer whose weights are whatever lies at the start of the flash.
uint16_t measured_centicycles(uint32_t (*micros)(), uint32_t clock_hz, uint8_t* arena,
                              uint16_t arena_bytes) {
  if (arena_bytes < MEASURED_INPUTS + MEASURED_OUTPUTS) return 0;
  tiny::DenseJob job;
  memset(&job, 0, sizeof job);
#ifdef __AVR__
  job.weights = job.channels = nullptr;
#else
  static const uint8_t some[MEASURED_INPUTS * MEASURED_OUTPUTS] = {1};
  job.weights = job.channels = some;
#endif
  job.x = arena;
  job.y = arena + MEASURED_INPUTS;
  job.inputs = MEASURED_INPUTS;
  job.outputs = MEASURED_OUTPUTS;
  job.high = 255;
  const uint32_t start_us = micros();
  tiny::dense(job, Memory::FLASH, false);
  const uint32_t us = micros() - start_us;
  const uint32_t megahertz = clock_hz / 1000000;
  return static_cast<uint16_t>(us * megahertz * 25 / (MEASURED_INPUTS * MEASURED_OUTPUTS / 4));
}

}  // namespace maille
