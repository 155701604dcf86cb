#include "layer_fields.h"

namespace maille {
namespace tiny {

namespace {

// A forest's fields, as addresses.
struct Forest {
  uint8_t features;
  uint16_t outputs, rows, trees;
  uint32_t nodes;
  const uint8_t *bases, *roots, *records, *leaves;
};

// What the walks rely on: every step goes forward within the nodes, features and rows exist.
void check_forest(Cursor &cursor, const Place &place, const Forest &forest) {
  uint32_t end = 0;
  for (uint16_t tree = 0; tree < forest.trees; tree++) {
    const uint16_t root = read_word(place.memory, forest.roots + 2 * static_cast<size_t>(tree));
    if (tree == 0 ? root != 0 : root < end) {
      cursor.fail();
    }
    end = static_cast<uint32_t>(root) + 1;
    if (end > forest.nodes) {
      cursor.fail();
    }
  }
  // Preorder without a stack: a leaf ends the left part of the innermost split that waits. Its
  // jump must lead behind that leaf, which is so exactly if every jump skips one whole subtree.
  uint16_t tree = 0;
  for (uint32_t index = 0; index < forest.nodes && !cursor.failed(); index++) {
    while (tree + 1 < forest.trees &&
               read_word(place.memory, forest.roots + 2 * static_cast<size_t>(tree + 1)) <= index) {
      tree++;
    }
    const uint32_t tree_end =
      tree + 1 < forest.trees
        ? read_word(place.memory, forest.roots + 2 * static_cast<size_t>(tree + 1))
        : forest.nodes;
    const uint8_t *record = forest.records + static_cast<size_t>(index) * TREE_NODE_BYTES;
    const uint8_t feature = read_byte(place.memory, record);
    const uint16_t threshold = read_word(place.memory, record + 1);
    const uint16_t jump = read_word(place.memory, record + 3);
    if (feature == TREE_LEAF) {
      if (jump != 0 || threshold >= forest.rows) {
        cursor.fail();
      }
    } else if (feature >= forest.features || jump < 2 || index + jump >= tree_end) {
      cursor.fail();
    }
  }
}

}  // namespace

void run_forest(Cursor& cursor, const Place& place) {
  Forest forest;
  forest.features = static_cast<uint8_t>(cursor.number(MAX_FEATURES));
  forest.outputs = cursor.size();
  if (forest.features == 0 || forest.outputs > MAX_CLASSES) {
    cursor.fail();
  }
  forest.bases = cursor.bytes_of(static_cast<uint32_t>(forest.outputs) * 4);
  size_t root_bytes, node_bytes, leaf_bytes;
  forest.roots = cursor.bytes(root_bytes);
  forest.records = cursor.bytes(node_bytes);
  forest.leaves = cursor.bytes(leaf_bytes);
  const uint16_t row_bytes = static_cast<uint16_t>(2 * forest.outputs);
  if (cursor.failed() || root_bytes == 0 || root_bytes % 2 != 0 ||
    root_bytes > 2 * static_cast<uint32_t>(MAX_TREES) || node_bytes == 0 ||
    node_bytes % TREE_NODE_BYTES != 0 || node_bytes / TREE_NODE_BYTES > MAX_TREE_NODES ||
    leaf_bytes == 0 || leaf_bytes % row_bytes != 0 || leaf_bytes / row_bytes > MAX_SIZE) {
    cursor.fail();
    return;
  }
  forest.trees = static_cast<uint16_t>(root_bytes / 2);
  forest.nodes = static_cast<uint32_t>(node_bytes / TREE_NODE_BYTES);
  forest.rows = static_cast<uint16_t>(leaf_bytes / row_bytes);
  if (place.arena == nullptr) {
    check_forest(cursor, place, forest);
  }
  const uint8_t *x =
    elements(cursor, place, place.input, static_cast<uint32_t>(forest.features) * 2);
  uint8_t *y = elements(cursor, place, place.output, static_cast<uint32_t>(forest.outputs) * 4);
  if (y == nullptr || cursor.failed()) {
    return;
  }
  for (uint16_t i = 0; i < row_bytes * 2; i++) {
    y[i] = read_byte(place.memory, forest.bases + i);
  }
  for (uint16_t tree = 0; tree < forest.trees; tree++) {
    uint32_t index = read_word(place.memory, forest.roots + 2 * static_cast<size_t>(tree));
    for (;;) {
      if (index >= forest.nodes) {  // only a model that went bad after the check
        cursor.fail();
        return;
      }
      const uint8_t *record = forest.records + static_cast<size_t>(index) * TREE_NODE_BYTES;
      const uint8_t feature = read_byte(place.memory, record);
      const uint16_t threshold = read_word(place.memory, record + 1);
      if (feature == TREE_LEAF) {
        if (threshold >= forest.rows) {
          cursor.fail();
          return;
        }
        const uint8_t *leaf = forest.leaves + static_cast<size_t>(threshold) * row_bytes;
        for (uint16_t i = 0; i < forest.outputs; i++) {
          uint8_t *sum = y + 4 * static_cast<size_t>(i);
          const uint32_t value =
            read_long(Memory::RAM, sum) +
            static_cast<uint32_t>(static_cast<int32_t>(static_cast<int16_t>(
              read_word(place.memory, leaf + 2 * static_cast<size_t>(i)))));
          sum[0] = static_cast<uint8_t>(value);
          sum[1] = static_cast<uint8_t>(value >> 8);
          sum[2] = static_cast<uint8_t>(value >> 16);
          sum[3] = static_cast<uint8_t>(value >> 24);
        }
        break;
      }
      if (feature >= forest.features) {
        cursor.fail();
        return;
      }
      const int16_t value =
        static_cast<int16_t>(read_word(Memory::RAM, x + 2 * static_cast<size_t>(feature)));
      const uint16_t jump = read_word(place.memory, record + 3);
      index += value <= static_cast<int16_t>(threshold) || jump == 0 ? 1 : jump;
    }
  }
}

}  // namespace tiny
}  // namespace maille
