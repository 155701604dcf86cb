#include "layer_fields.h"
#include "kernels_plain.h"

#include <string.h>

namespace maille {
namespace tiny {

void run_max_pool(Cursor& cursor, const Place& place) {
  WindowedLayer layer;
  take_windowed(cursor, place, Windowed::MAX_POOL, layer);
  const ConvolutionJob& job = layer.job;
  if (job.y == nullptr) return;
  uint8_t *y = job.y;
  for (uint16_t row = 0; row < job.window.output_height; row++) {
    for (uint16_t column = 0; column < job.window.output_width; column++) {
      const uint16_t channels = job.window.output_channels;
      memset(y, 0, channels);
      WindowWalk walk(job.window, job.x, row, column);
      while (walk.next()) {
        const uint8_t* x = walk.x();
        if (x != nullptr) {
          for (uint16_t channel = 0; channel < channels; channel++) {
            if (x[channel] > y[channel]) {
              y[channel] = x[channel];
            }
          }
        }
      }
      y += channels;
    }
  }
}

void run_average_pool(Cursor& cursor, const Place& place) {
  WindowedLayer layer;
  take_windowed(cursor, place, Windowed::AVERAGE_POOL, layer);
  const ConvolutionJob& job = layer.job;
  if (static_cast<uint32_t>(job.window.kernel_height) * job.window.kernel_width >
      MAX_POOL_ELEMENTS) {
    cursor.fail();
  }
  if (job.y == nullptr || cursor.failed()) return;
  const Memory memory = place.memory;
  const int32_t bias = static_cast<int32_t>(read_long(memory, job.channels));
  const uint16_t multiplier = read_word(memory, job.channels + 4);
  const uint8_t shift = read_byte(memory, job.channels + 6);
  uint8_t *y = job.y;
  for (uint16_t row = 0; row < job.window.output_height; row++) {
    for (uint16_t column = 0; column < job.window.output_width; column++) {
      for (uint16_t channel = 0; channel < job.window.output_channels; channel++) {
        uint32_t accumulator = static_cast<uint32_t>(bias);
        WindowWalk walk(job.window, job.x, row, column);
        while (walk.next()) {
          const uint8_t* x = walk.x();
          accumulator += x != nullptr ? x[channel] : job.pad_value;
        }
        *y++ = requantise(static_cast<int32_t>(accumulator), multiplier, shift, job.zero, job.low, job.high);
      }
    }
  }
}

}  // namespace tiny
}  // namespace maille
