// The layers of the tiny format: each takes its fields from a cursor, checks them, and runs if there is an arena.
#pragma once
#include "cursor.h"

namespace maille {
namespace tiny {

// Where a layer works.
struct Place {
  Memory memory;         // of the model
  uint8_t* arena;        // null: only check
  uint32_t arena_bytes;
  uint32_t input, output;  // offsets of the layer's first input and of its output
};

// Takes the fields behind kind, input and output. A layer that breaks a rule makes the cursor fail.
typedef void (*Layer)(Cursor& cursor, const Place& place);

void run_dense(Cursor& cursor, const Place& place);
void run_convolution(Cursor& cursor, const Place& place);
void run_depthwise(Cursor& cursor, const Place& place);
void run_max_pool(Cursor& cursor, const Place& place);
void run_average_pool(Cursor& cursor, const Place& place);
void run_add(Cursor& cursor, const Place& place);
void run_lookup(Cursor& cursor, const Place& place);
void run_arg_max(Cursor& cursor, const Place& place);
void run_softmax(Cursor& cursor, const Place& place);
void run_forest(Cursor& cursor, const Place& place);

// The layers that a model may use, by kind - 1; null: not part of this firmware. A firmware carries only the
// code of layers that some set of it names.
struct Layers {
  Layer by_kind[10];
};

// Every layer of the format.
extern const Layers ALL_LAYERS;
// Those of dense networks and decision forests: what fits beside the rest on an Uno.
extern const Layers SMALL_LAYERS;

}  // namespace tiny
}  // namespace maille
