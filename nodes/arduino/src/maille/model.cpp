#include "model.h"

#include <string.h>

#include "cursor.h"
#include "layers.h"

namespace maille {
namespace tiny {
namespace {

constexpr uint8_t FIELDS = 13;
constexpr uint8_t INPUTS = 0, OUTPUTS = 1;

// Takes the first eight fields.
Fault take_header(Cursor &cursor, Header &header) {
  if (cursor.array() < 2) {
    return Fault::MALFORMED;
  }
  cursor.text(MAGIC);
  if (cursor.failed()) {
    return Fault::MALFORMED;
  }
  if (cursor.number(0xFFFFFFFF) != FORMAT_VERSION) {
    return cursor.failed() ? Fault::MALFORMED : Fault::VERSION;
  }
  header.arena_bytes = cursor.number(MAX_ARENA_BYTES);
  header.peak_layer = static_cast<uint8_t>(cursor.number(MAX_LAYERS - 1));
  cursor.number(MAX_LAYERS - 1);
  cursor.number(0xFFFFFFFF);
  cursor.number(0xFFFFFFFF);
  header.multiply_accumulates = cursor.number(0xFFFFFFFF);
  return cursor.failed() ? Fault::MALFORMED : Fault::NONE;
}

void take_tensor(Cursor &cursor, Tensor &tensor) {
  if (cursor.array() != 3) {
    cursor.fail();
  }
  tensor.element_type = static_cast<uint8_t>(cursor.number(ELEMENT_INT32));
  tensor.count = cursor.size();
  tensor.offset = cursor.number(MAX_ARENA_BYTES);
}

// Takes inputs or outputs; the bytes of all their elements.
uint32_t take_tensors(Cursor &cursor, uint32_t arena_bytes, uint8_t &count) {
  const uint32_t items = cursor.array();
  if (items == 0 || items > MAX_TENSORS) {
    cursor.fail();
  }
  uint32_t bytes = 0;
  for (uint8_t i = 0; i < items && !cursor.failed(); i++) {
    Tensor tensor;
    take_tensor(cursor, tensor);
    const uint8_t odd = static_cast<uint8_t>((1 << tensor.element_type) - 1);
    if (tensor.offset > arena_bytes || tensor.size() > arena_bytes - tensor.offset ||
      (tensor.offset & odd) != 0) {
      cursor.fail();
    }
    bytes += tensor.size();
  }
  count = static_cast<uint8_t>(items);
  return cursor.failed() ? 0 : bytes;
}

// Takes one layer, running it if there is an arena.
Fault take_layer(Cursor& cursor, const Layers& layers, Place& place) {
  static const uint8_t FIELDS[] = {11, 22, 22, 16, 21, 11, 5, 5, 5, 9};
  const uint32_t fields = cursor.array();
  const uint8_t kind = static_cast<uint8_t>(cursor.number(0xFF));
  if (cursor.failed()) return Fault::MALFORMED;
  const Layer layer = kind >= LAYER_DENSE && kind <= LAYER_FOREST ? layers.by_kind[kind - 1] : nullptr;
  if (layer == nullptr) return Fault::KIND;
  if (fields != FIELDS[kind - 1]) return Fault::MALFORMED;
  place.input = cursor.number(MAX_ARENA_BYTES);
  place.output = cursor.number(MAX_ARENA_BYTES);
  layer(cursor, place);
  return cursor.failed() ? Fault::MALFORMED : Fault::NONE;
}

// Goes through all layers, running them if there is an arena. Leaves the cursor behind them.
Fault take_layers(Cursor& cursor, const Layers& layers, Place& place, uint8_t* index) {
  const uint32_t count = cursor.array();
  if (cursor.failed() || count == 0 || count > MAX_LAYERS) return Fault::MALFORMED;
  for (uint8_t i = 0; i < count; i++) {
    const Fault fault = take_layer(cursor, layers, place);
    if (fault != Fault::NONE) {
      if (index != nullptr) *index = i;
      return fault;
    }
  }
  return Fault::NONE;
}

}  // namespace

Fault Model::header(Header &header) const {
  Cursor cursor(memory_, start_, size_);
  return take_header(cursor, header);
}

Fault Model::check(uint32_t arena_bytes, uint8_t *layer) const {
  Cursor cursor(memory_, start_, size_);
  Header header;
  Fault fault = take_header(cursor, header);
  if (fault != Fault::NONE) {
    return fault;
  }
  if (read_byte(memory_, start_) != 0x80 + FIELDS) {
    return Fault::MALFORMED;
  }
  if (header.arena_bytes > arena_bytes) {
    if (layer != nullptr) {
      *layer = header.peak_layer;
    }
    return Fault::ARENA;
  }
  uint8_t inputs = 0, outputs = 0;
  const uint32_t test_bytes = take_tensors(cursor, header.arena_bytes, inputs) +
                take_tensors(cursor, header.arena_bytes, outputs);
  if (cursor.failed()) {
    return Fault::MALFORMED;
  }
  Place place = {memory_, nullptr, header.arena_bytes, 0, 0};
  fault = take_layers(cursor, *layers_, place, layer);
  if (fault != Fault::NONE) {
    return fault;
  }
  size_t tests, description;
  cursor.bytes(tests);
  cursor.bytes(description);
  if (cursor.failed() || cursor.left() != 0 || tests == 0 ||
    tests % test_bytes != 0) {
    return Fault::MALFORMED;
  }
  return Fault::NONE;
}

bool Model::tensor(uint8_t list, uint8_t index, Tensor &tensor, uint8_t &count) const {
  Cursor cursor(memory_, start_, size_);
  Header header;
  if (take_header(cursor, header) != Fault::NONE) {
    return false;
  }
  if (list == OUTPUTS) {
    cursor.skip();
  }
  count = static_cast<uint8_t>(cursor.array());
  if (index >= count) {
    return false;
  }
  for (uint8_t i = 0; i <= index; i++) {
    take_tensor(cursor, tensor);
  }
  return !cursor.failed();
}

uint8_t Model::input_count() const {
  Tensor first;
  uint8_t count = 0;
  return tensor(INPUTS, 0, first, count) ? count : 0;
}

uint8_t Model::output_count() const {
  Tensor first;
  uint8_t count = 0;
  return tensor(OUTPUTS, 0, first, count) ? count : 0;
}

bool Model::input(uint8_t index, Tensor &found) const {
  uint8_t count = 0;
  return tensor(INPUTS, index, found, count);
}

bool Model::output(uint8_t index, Tensor &found) const {
  uint8_t count = 0;
  return tensor(OUTPUTS, index, found, count);
}

bool Model::run(uint8_t *arena, uint32_t arena_bytes) const {
  Cursor cursor(memory_, start_, size_);
  Header header;
  if (take_header(cursor, header) != Fault::NONE || header.arena_bytes > arena_bytes) {
    return false;
  }
  cursor.skip();
  cursor.skip();
  Place place = {memory_, arena, header.arena_bytes, 0, 0};
  return take_layers(cursor, *layers_, place, nullptr) == Fault::NONE;
}

Fault Model::self_test(uint8_t *arena, uint32_t arena_bytes, uint16_t* count) const {
  if (count != nullptr) *count = 0;
  Cursor cursor(memory_, start_, size_);
  Header header;
  Fault fault = take_header(cursor, header);
  if (fault != Fault::NONE) {
    return fault;
  }
  for (uint8_t field = 0; field < 3; field++) {  // inputs, outputs, layers
    cursor.skip();
  }
  size_t left;
  const uint8_t *test = cursor.bytes(left);
  if (cursor.failed() || left == 0) {
    return Fault::MALFORMED;
  }
  while (left != 0) {
    if (count != nullptr) ++*count;
    Tensor found;
    for (uint8_t i = 0; input(i, found); i++) {
      if (found.size() > left || found.offset + found.size() > arena_bytes) {
        return Fault::MALFORMED;
      }
      for (uint16_t j = 0; j < found.size(); j++) {
        arena[found.offset + j] = read_byte(memory_, test++);
      }
      left -= static_cast<size_t>(found.size());
    }
    if (!run(arena, arena_bytes)) {
      return Fault::MALFORMED;
    }
    for (uint8_t i = 0; output(i, found); i++) {
      if (found.size() > left) {
        return Fault::MALFORMED;
      }
      for (uint16_t j = 0; j < found.size(); j++) {
        if (arena[found.offset + j] != read_byte(memory_, test++)) {
          return Fault::SELF_TEST;
        }
      }
      left -= static_cast<size_t>(found.size());
    }
  }
  return Fault::NONE;
}

}  // namespace tiny
}  // namespace maille
