// Checks and runs models of the tiny format (protocol/TINY.md) where they lie: no copy, no heap.
//
// Every call goes through the document anew with a cursor and checks what it meets, so a model in an
// EEPROM that goes bad later cannot lead outside of its bytes or of the arena.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "layers.h"
#include "memory.h"
#include "tiny_codes.h"

namespace maille {
namespace tiny {

// Why a model is refused.
enum class Fault : uint8_t {
  NONE,
  MALFORMED,      // no tiny model, damaged, or against a rule of the format
  VERSION,        // of another version of the format
  ARENA,          // needs more memory than there is
  KIND,           // has a kind of layer that this firmware was built without
  SELF_TEST,      // computes something else than it should
};

// Elements of one input or output in the arena.
struct Tensor {
  uint8_t element_type;
  uint16_t count;
  uint32_t offset;

  // Bytes of all elements.
  uint32_t size() const { return static_cast<uint32_t>(count) << element_type; }
};

// What the integers of an input mean: real = offset + step * integer.
struct Quantisation {
  float step, offset;
};

// What the header of a document says.
struct Header {
  uint32_t arena_bytes;
  uint8_t peak_layer;
  uint32_t multiply_accumulates;
};

// A model in place. Copying one copies four words, not the model.
class Model {
 public:
  Model() : memory_(Memory::RAM), start_(nullptr), size_(0), layers_(nullptr) {}
  Model(Memory memory, const uint8_t* start, size_t size, const Layers& layers)
      : memory_(memory), start_(start), size_(size), layers_(&layers) {}

  Memory memory() const { return memory_; }
  const uint8_t *start() const { return start_; }
  size_t size() const { return size_; }

  // Checks all of it against an arena of so many bytes. `layer`, if given, gets the index of the
  // layer at fault (for ARENA: the one with the largest need).
  Fault check(uint32_t arena_bytes, uint8_t *layer = nullptr) const;

  // The header alone: enough to refuse a model from its first 40 bytes.
  Fault header(Header &header) const;

  uint8_t input_count() const;
  uint8_t output_count() const;

  // One input or output; false if there is none of that index.
  bool input(uint8_t index, Tensor &tensor) const;
  bool output(uint8_t index, Tensor &tensor) const;

  // Runs the layers over inputs that lie in the arena. False, with the arena in any state, if the
  // model is not what `check` accepts for `arena_bytes`.
  bool run(uint8_t *arena, uint32_t arena_bytes) const;

  // Runs the model's own test vectors; NONE if every byte is right. `count`, if given, gets how many.
  Fault self_test(uint8_t *arena, uint32_t arena_bytes, uint16_t* count = nullptr) const;

 private:
  bool tensor(uint8_t list, uint8_t index, Tensor &tensor, uint8_t &count) const;

  Memory memory_;
  const uint8_t *start_;
  size_t size_;
  const Layers* layers_;
};

// Goes through the quantisations of one input's elements, from the description.
class QuantisationWalk {
 public:
  QuantisationWalk(const Model& model, uint8_t input);

  // That of the next element; false: there is none.
  bool next(Quantisation& found);

 private:
  Cursor cursor_;
  uint32_t left_;
  bool one_for_all_;
  Quantisation last_;
};

}  // namespace tiny
}  // namespace maille
