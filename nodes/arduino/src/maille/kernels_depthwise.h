// Depthwise convolution on AVR: one channel at a time over a padded copy of its inputs.
//
// The copy (a tile) has no gaps and no edges, so a window is walked by one pointer; weights,
// multiplier and rounding of the channel are brought into the form that the inner loop wants once for
// all positions. That also makes it the same for models in flash, RAM and EEPROM.
#pragma once
#include "kernels.h"

namespace maille {
namespace tiny {

// Bytes of stack: inputs of one channel, and the weights of one.
constexpr uint8_t TILE_BYTES = 192;
constexpr uint8_t MAX_DEPTHWISE_TAPS = 64;
// Bytes of a tile's row for windows of 3 by 3: known to the assembler, it saves moving the pointer.
constexpr uint8_t DEPTHWISE_PITCH = 18;

// What one call computes: a rectangle of one channel's outputs. kernels_depthwise.S knows the places.
struct DepthwiseJob {
  const uint8_t* tile;       // moved on
  uint8_t* y;                // moved on
  uint8_t rows, columns;     // of outputs, 1 or more
  uint8_t row_gap;           // from behind a window's row to its next row
  uint8_t kernel_width, kernel_height;
  int16_t next_column;       // from behind a window to the next one
  int16_t next_row;          // what brings a row's end to the next row, in the tile
  uint16_t y_column;         // from an output to the next
  int16_t y_row;             // what brings a row's end to the next row, in the outputs
  uint8_t bias[3];
  uint8_t multiplier[3];     // multiplier << (8 or 16 - shift)
  uint8_t zero, low, high;
  uint8_t drop;              // 1: the scaled sum has a byte more to drop (shifts above 8)
  uint8_t weights[MAX_DEPTHWISE_TAPS];  // as stored; the kernel makes them signed
};

// Does all of it if it can; false, with nothing done, if the layer is not of its kind: sums of 32 bits, too
// many weights, shifts of 0 or above 14.
bool depthwise_tiled(const ConvolutionJob& job, Memory memory);

}  // namespace tiny
}  // namespace maille
