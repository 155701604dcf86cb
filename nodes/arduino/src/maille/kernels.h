// The layers that multiply: dense, convolution and depthwise convolution.
//
// Each has a plain form in kernels_plain.h, which is the same on every processor. AVR has dense
// kernels in assembler (kernels_avr.S) for weights in flash and in RAM; a convolution gathers the
// inputs of one output position and is then a dense layer over its channels.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "memory.h"

namespace maille {
namespace tiny {

// Rows whose sums a dense kernel keeps at a time, and the bytes of the sums.
constexpr uint8_t BATCH_ROWS_24 = 32;
constexpr uint8_t BATCH_ROWS_32 = 24;
constexpr uint8_t BATCH_SUM_BYTES = 96;

// One run of a dense layer. kernels_avr.S knows the places of the fields.
struct DenseJob {
  const uint8_t *weights;   // stored weights [output][input], in the job's memory
  const uint8_t *channels;  // 7 bytes for each output, in the job's memory
  const uint8_t *x;         // inputs, in RAM
  uint8_t *y;               // outputs, in RAM
  uint16_t inputs;          // 1 or more
  uint16_t outputs;         // 1 or more
  // The rest is the kernels' own, but for the rounding.
  int32_t correction;       // -128 * sum(x), which undoes the weights' offset
  uint8_t zero, low, high;
  uint8_t rows;             // of this batch
#ifdef __AVR__
  uint8_t sums[BATCH_SUM_BYTES];
#endif
};

// Geometry of a layer that slides a window; as in TINY.md.
struct Window {
  uint16_t input_height, input_width, input_channels;
  uint16_t output_height, output_width, output_channels;
  uint16_t kernel_height, kernel_width;
  uint16_t stride_height, stride_width;
  uint16_t pad_top, pad_left;
};

// One run of a convolution.
struct ConvolutionJob {
  Window window;
  const uint8_t *weights;   // in the job's memory
  const uint8_t *channels;  // in the job's memory
  const uint8_t *x;         // in RAM
  uint8_t *y;               // in RAM
  uint8_t pad_value, zero, low, high;
};

// Longest row of weights of a convolution that the tuned form gathers (bytes of stack).
#ifdef __AVR__
constexpr uint16_t MAX_PATCH_BYTES = 192;
#else
constexpr uint16_t MAX_PATCH_BYTES = 1024;
#endif

// `wide`: the layer's sums need 32 bits; else they are taken modulo 2^24.
// The tuned form moves the job's fields on: fill it in anew for each run.
void dense(DenseJob &job, Memory memory, bool wide);
void convolution(const ConvolutionJob &job, Memory memory, bool wide);
void depthwise_convolution(const ConvolutionJob &job, Memory memory, bool wide);

// The sum of `count` bytes.
uint32_t sum(const uint8_t *x, uint16_t count);

}  // namespace tiny
}  // namespace maille
