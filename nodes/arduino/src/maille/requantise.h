// The one rounding rule of the tiny format (protocol/TINY.md, "The rounding rule").
#pragma once
#include <stdint.h>

namespace maille {
namespace tiny {

// floor(accumulator * multiplier / 2^16), then rounded to nearest by 2^shift, ties upwards.
// No step leaves 32 bits for a multiplier of at most 32768 and a shift of at most 31.
inline int32_t scale_accumulator(int32_t accumulator, uint16_t multiplier, uint8_t shift) {
  const int16_t high = static_cast<int16_t>(accumulator >> 16);
  const uint16_t low = static_cast<uint16_t>(accumulator);
  const uint32_t low_product = static_cast<uint32_t>(low) * multiplier;
  int32_t scaled = static_cast<int32_t>(high) * static_cast<int32_t>(multiplier) +
                     static_cast<int32_t>(low_product >> 16);
  if (shift != 0) {
    scaled = (scaled + (static_cast<int32_t>(1) << (shift - 1))) >> shift;
  }
  return scaled;
}

// The uint8 of an accumulator: scaled, moved by the zero point, held between low and high.
inline uint8_t requantise(int32_t accumulator, uint16_t multiplier, uint8_t shift, uint8_t zero,
              uint8_t low, uint8_t high) {
  const int32_t value = scale_accumulator(accumulator, multiplier, shift) + zero;
  if (value < low) {
    return low;
  }
  if (value > high) {
    return high;
  }
  return static_cast<uint8_t>(value);
}

}  // namespace tiny
}  // namespace maille
