// One layer of a tiny model: reads and checks its fields, and runs it if there is an arena.
#pragma once
#include "cursor.h"
#include "model.h"

namespace maille {
namespace tiny {

// Where a layer works.
struct Place {
  Memory memory;       // of the model
  uint8_t *arena;      // null: only check
  uint32_t arena_bytes;
};

// Takes one layer from the cursor. A layer that breaks a rule makes the cursor fail.
Fault walk_layer(Cursor &cursor, const Place &place);

}  // namespace tiny
}  // namespace maille
