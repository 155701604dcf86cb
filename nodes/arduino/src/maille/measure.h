// How fast this board multiplies, by the clock: what it tells the mesh of itself.
#pragma once
#include <stdint.h>

namespace maille {

// Hundredths of a clock cycle for each multiply-accumulate of a dense layer in flash, everything included; 0 where
// the arena is too small to try. It writes over the arena.
uint16_t measured_centicycles(uint32_t (*micros)(), uint32_t clock_hz, uint8_t* arena,
                              uint16_t arena_bytes);

}  // namespace maille
