// What layers have in common: taking their fields from the cursor, checked.
#pragma once
#include "cursor.h"
#include "kernels.h"
#include "layers.h"
#include "tiny_codes.h"

namespace maille {
namespace tiny {

// Fields that every layer with a rounding rule has.
struct Rounding {
  uint8_t zero, low, high;
};

uint8_t byte_field(Cursor& cursor);
Rounding rounding(Cursor& cursor);

// The records of `count` channels, with multipliers and shifts in range.
const uint8_t* channels(Cursor& cursor, const Place& place, uint16_t count);

// Weights, of which none is stored as 0.
const uint8_t* stored_weights(Cursor& cursor, const Place& place, uint32_t count);

// The address of elements in the arena; fails if they do not all lie in it. Null while checking.
uint8_t* elements(Cursor& cursor, const Place& place, uint32_t offset, uint32_t bytes);

// A layer with a window: everything but its weights. Null `y` while checking, and after a failure.
struct WindowedLayer {
  ConvolutionJob job;
  bool wide;
};
enum class Windowed : uint8_t { CONVOLUTION, DEPTHWISE, MAX_POOL, AVERAGE_POOL };
void take_windowed(Cursor& cursor, const Place& place, Windowed kind, WindowedLayer& layer);

}  // namespace tiny
}  // namespace maille
