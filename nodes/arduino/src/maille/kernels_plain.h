// The plain forms of the kernels: what TINY.md says, nothing else. The tuned ones are compared with
// these byte by byte; the reader knows where weights and channels lie.
#pragma once
#include "kernels.h"
#include "requantise.h"
#include "tiny_codes.h"

namespace maille {
namespace tiny {

template <typename Reader>
int32_t read_signed_long(Reader reader, const uint8_t *at) {
  return static_cast<int32_t>(reader.byte(at) | static_cast<uint32_t>(reader.byte(at + 1)) << 8 |
                static_cast<uint32_t>(reader.byte(at + 2)) << 16 |
                static_cast<uint32_t>(reader.byte(at + 3)) << 24);
}

// Finishes one output: the record's bias is already in the accumulator.
template <typename Reader>
uint8_t finish(Reader reader, int32_t accumulator, const uint8_t *record, uint8_t zero, uint8_t low, uint8_t high) {
  const uint16_t multiplier =
    static_cast<uint16_t>(reader.byte(record + 4) | reader.byte(record + 5) << 8);
  return requantise(accumulator, multiplier, reader.byte(record + 6), zero, low, high);
}

// A product of a stored weight and an activation.
inline int32_t product(uint8_t stored, uint8_t x) {
  return (static_cast<int16_t>(stored) - static_cast<int16_t>(WEIGHT_OFFSET)) *
           static_cast<int32_t>(x);
}

template <typename Reader>
void dense_plain(Reader reader, const DenseJob &job) {
  const uint8_t *weight = job.weights;
  const uint8_t *record = job.channels;
  for (uint16_t output = 0; output < job.outputs; output++) {
    // Unsigned: modulo 2^32, whatever a damaged model asks for
      uint32_t accumulator = static_cast<uint32_t>(read_signed_long(reader, record));
    for (uint16_t input = 0; input < job.inputs; input++) {
      accumulator += static_cast<uint32_t>(product(reader.byte(weight++), job.x[input]));
    }
    job.y[output] = finish(reader, static_cast<int32_t>(accumulator), record, job.zero, job.low, job.high);
    record += CHANNEL_BYTES;
  }
}

// Goes through the places of a kernel at one output position.
class WindowWalk {
 public:
  WindowWalk(const Window& window, const uint8_t* x, uint16_t row, uint16_t column);

  // The next place, row by row; false behind the last.
  bool next();

  // The first channel of the input there; null where the window pads.
  const uint8_t* x() const { return at_; }

 private:
  const Window& window_;
  const uint8_t* x_;
  const uint8_t* at_;
  int32_t top_, left_;
  uint16_t i_, j_;
};

template <typename Reader>
void convolution_plain(Reader reader, const ConvolutionJob &job) {
  const Window &window = job.window;
  const uint16_t channels = window.input_channels;
  const size_t row_bytes =
    static_cast<size_t>(window.kernel_height) * window.kernel_width * channels;
  uint8_t *y = job.y;
  for (uint16_t row = 0; row < window.output_height; row++) {
    for (uint16_t column = 0; column < window.output_width; column++) {
      for (uint16_t output = 0; output < window.output_channels; output++) {
        const uint8_t *record = job.channels + static_cast<size_t>(output) * CHANNEL_BYTES;
        const uint8_t *weights = job.weights + output * row_bytes;
        // Unsigned: modulo 2^32, whatever a damaged model asks for
      uint32_t accumulator = static_cast<uint32_t>(read_signed_long(reader, record));
        WindowWalk walk(window, job.x, row, column);
        while (walk.next()) {
          const uint8_t* x = walk.x();
          for (uint16_t channel = 0; channel < channels; channel++) {
            accumulator += static_cast<uint32_t>(product(reader.byte(weights++), x != nullptr ? x[channel] : job.pad_value));
          }
        }
        *y++ = finish(reader, static_cast<int32_t>(accumulator), record, job.zero, job.low, job.high);
      }
    }
  }
}

template <typename Reader>
void depthwise_plain(Reader reader, const ConvolutionJob &job) {
  const Window &window = job.window;
  const size_t row_bytes = static_cast<size_t>(window.kernel_height) * window.kernel_width;
  const uint16_t copies = window.output_channels / window.input_channels;
  uint8_t *y = job.y;
  for (uint16_t row = 0; row < window.output_height; row++) {
    for (uint16_t column = 0; column < window.output_width; column++) {
      for (uint16_t output = 0; output < window.output_channels; output++) {
        const uint8_t *record = job.channels + static_cast<size_t>(output) * CHANNEL_BYTES;
        const uint8_t *weights = job.weights + output * row_bytes;
        const uint16_t channel = output / copies;
        // Unsigned: modulo 2^32, whatever a damaged model asks for
      uint32_t accumulator = static_cast<uint32_t>(read_signed_long(reader, record));
        WindowWalk walk(window, job.x, row, column);
        while (walk.next()) {
          const uint8_t* x = walk.x();
          accumulator += static_cast<uint32_t>(product(reader.byte(weights++), x != nullptr ? x[channel] : job.pad_value));
        }
        *y++ = finish(reader, static_cast<int32_t>(accumulator), record, job.zero, job.low, job.high);
      }
    }
  }
}

}  // namespace tiny
}  // namespace maille
