#if defined(__AVR__) && !defined(MAILLE_PLAIN_KERNELS)
#include "kernels_depthwise.h"

#include <string.h>

#include "tiny_codes.h"

extern "C" {
void maille_depthwise_3x3(maille::tiny::DepthwiseJob* job);
void maille_depthwise_any(maille::tiny::DepthwiseJob* job);
// Copies rows of elements that lie `step` apart; the gaps lead from a row's end to the next.
void maille_gather(const uint8_t* from, uint8_t* to, uint8_t columns, uint8_t rows, uint16_t step,
                   uint16_t from_gap, uint8_t to_gap);
}

namespace maille {
namespace tiny {
namespace {

constexpr uint8_t MAX_TILED_SHIFT = 14;

static_assert(offsetof(DepthwiseJob, next_column) == 9 && offsetof(DepthwiseJob, bias) == 17 &&
                  offsetof(DepthwiseJob, drop) == 26 && offsetof(DepthwiseJob, weights) == 27,
              "kernels_depthwise.S relies on these places");

// A stretch of windows in one direction, and the inputs below it.
struct Stretch {
  uint16_t first;    // output
  uint8_t outputs;
  int32_t start;     // first input, may lie before the edge
  uint8_t inputs;    // places in the tile
  uint8_t before;    // of them that pad, at the beginning
  uint8_t inside;    // of them that are inputs, behind these
};

void set_inside(Stretch& stretch, uint16_t size) {
  const int32_t end = stretch.start + stretch.inputs;
  const int32_t from = stretch.start < 0 ? 0 : stretch.start;
  const int32_t to = end > size ? size : end;
  stretch.before = static_cast<uint8_t>(from - stretch.start);
  stretch.inside = to > from ? static_cast<uint8_t>(to - from) : 0;
}

// The stretch from output `first` on, of at most `most` outputs.
Stretch stretch_from(uint16_t first, uint16_t outputs, uint8_t most, uint16_t size, uint8_t kernel,
                     uint16_t stride, uint16_t pad) {
  Stretch stretch;
  stretch.first = first;
  const uint16_t left = static_cast<uint16_t>(outputs - first);
  stretch.outputs = left < most ? static_cast<uint8_t>(left) : most;
  stretch.start = static_cast<int32_t>(first) * stride - pad;
  stretch.inputs = static_cast<uint8_t>((stretch.outputs - 1) * stride + kernel);
  set_inside(stretch, size);
  return stretch;
}

// Outputs whose windows need at most `room` places; 0: not even one.
uint8_t outputs_in(uint8_t room, uint16_t kernel, uint16_t stride, uint16_t outputs) {
  if (kernel > room) return 0;
  const uint16_t fit = static_cast<uint16_t>((room - kernel) / stride + 1);
  return static_cast<uint8_t>(fit < outputs ? fit : outputs);
}

bool fits(uint8_t shift) { return shift != 0 && shift <= MAX_TILED_SHIFT; }

// Brings a channel into the kernel's form. On its own: in a function with a large frame it is slow.
__attribute__((noinline)) void take_channel(Memory memory, const uint8_t* record, const uint8_t* weights,
                                            uint8_t taps, DepthwiseJob& run) {
  uint8_t fields[CHANNEL_BYTES];
  copy_bytes(memory, fields, record, CHANNEL_BYTES);
  run.bias[0] = fields[0];
  run.bias[1] = fields[1];
  run.bias[2] = fields[2];
  uint8_t low = fields[4], middle = fields[5], high = 0;
  const uint8_t shift = fields[6];
  run.drop = shift > 8 ? 1 : 0;
  for (uint8_t lift = static_cast<uint8_t>((shift > 8 ? 16 : 8) - shift); lift != 0; lift--) {
    high = static_cast<uint8_t>(high << 1 | middle >> 7);
    middle = static_cast<uint8_t>(middle << 1 | low >> 7);
    low = static_cast<uint8_t>(low << 1);
  }
  run.multiplier[0] = low;
  run.multiplier[1] = middle;
  run.multiplier[2] = high;
  copy_bytes(memory, run.weights, weights, taps);
}

}  // namespace

bool depthwise_tiled(const ConvolutionJob& job, Memory memory) {
  const Window& window = job.window;
  if (window.kernel_height > MAX_DEPTHWISE_TAPS || window.kernel_width > MAX_DEPTHWISE_TAPS ||
      window.kernel_height * window.kernel_width > MAX_DEPTHWISE_TAPS) {
    return false;
  }
  const uint8_t kernel_height = static_cast<uint8_t>(window.kernel_height);
  const uint8_t kernel_width = static_cast<uint8_t>(window.kernel_width);
  const uint8_t taps = static_cast<uint8_t>(kernel_height * kernel_width);
  for (uint16_t output = 0; output < window.output_channels; output++) {
    const uint8_t* record = job.channels + static_cast<size_t>(output) * CHANNEL_BYTES;
    if (!fits(read_byte(memory, record + 6))) return false;
  }
  const bool three = kernel_height == 3 && kernel_width == 3;
  // As many whole rows as fit, or pieces of one.
  const uint8_t columns_at_once =
      outputs_in(three ? DEPTHWISE_PITCH : static_cast<uint8_t>(TILE_BYTES / kernel_height),
                 kernel_width, window.stride_width, window.output_width);
  const uint8_t pitch =
      three ? DEPTHWISE_PITCH
            : static_cast<uint8_t>((columns_at_once - 1) * window.stride_width + kernel_width);
  const uint8_t rows_at_once = outputs_in(static_cast<uint8_t>(TILE_BYTES / pitch), kernel_height,
                                          window.stride_height, window.output_height);
  const uint16_t copies = window.output_channels / window.input_channels;
  if (columns_at_once == 0 || rows_at_once == 0) return false;

  uint8_t tile[TILE_BYTES];
  DepthwiseJob run;
  run.kernel_width = kernel_width;
  run.kernel_height = kernel_height;
  run.zero = job.zero;
  run.low = job.low;
  run.high = job.high;
  run.y_column = window.output_channels;
  uint16_t row = 0;
  while (row < window.output_height) {
    const Stretch rows = stretch_from(row, window.output_height, rows_at_once, window.input_height,
                                      kernel_height, window.stride_height, window.pad_top);
    uint16_t column = 0;
    while (column < window.output_width) {
      const Stretch columns =
          stretch_from(column, window.output_width, columns_at_once, window.input_width, kernel_width,
                       window.stride_width, window.pad_left);
      if (rows.inside != rows.inputs || columns.inside != columns.inputs) {
        memset(tile, job.pad_value, static_cast<uint8_t>(rows.inputs * pitch));
      }
      run.columns = columns.outputs;
      run.row_gap = static_cast<uint8_t>(pitch - kernel_width);
      // Modulo 2^16, as the chip's pointers are. The kernel for 3 by 3 does not move within a window.
      run.next_column = static_cast<int16_t>(
          three ? window.stride_width
                : window.stride_width - (kernel_height - 1) * pitch - kernel_width);
      run.next_row = static_cast<int16_t>(window.stride_height * pitch -
                                          columns.outputs * window.stride_width);
      run.y_row = static_cast<int16_t>((window.output_width - columns.outputs) *
                                       window.output_channels);
      const uint8_t* x = job.x;
      if (rows.inside != 0 && columns.inside != 0) {
        x += (static_cast<size_t>(rows.start + rows.before) * window.input_width +
              static_cast<size_t>(columns.start + columns.before)) * window.input_channels;
      }
      uint8_t* y = job.y + (static_cast<size_t>(row) * window.output_width + column) *
                               window.output_channels;
      uint8_t* const first = tile + static_cast<uint8_t>(rows.before * pitch + columns.before);
      const uint16_t from_gap =
          static_cast<uint16_t>((window.input_width - columns.inside) * window.input_channels);
      const uint8_t to_gap = static_cast<uint8_t>(pitch - columns.inside);
      const uint8_t* record = job.channels;
      const uint8_t* weights = job.weights;
      uint16_t copy = copies;
      for (uint16_t output = window.output_channels; output != 0; output--) {
        if (copy == copies) {
          copy = 0;
          if (rows.inside != 0 && columns.inside != 0) {
            maille_gather(x++, first, columns.inside, rows.inside, window.input_channels, from_gap,
                          to_gap);
          }
        }
        copy++;
        take_channel(memory, record, weights, taps, run);
        record += CHANNEL_BYTES;
        weights += taps;
        run.tile = tile;
        run.y = y++;
        run.rows = rows.outputs;
        if (three) {
          maille_depthwise_3x3(&run);
        } else {
          maille_depthwise_any(&run);
        }
      }
      column += columns.outputs;
    }
    row += rows.outputs;
  }
  return true;
}

}  // namespace tiny
}  // namespace maille
#endif
