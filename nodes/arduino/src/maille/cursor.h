// Goes once through the CBOR of a tiny model, wherever it lies.
#pragma once
#include "memory.h"

namespace maille {
namespace tiny {

// Reads heads and skips bytes. After the first thing that is not as asked, `failed()` holds and
// every read gives 0; nothing is ever read outside `start` to `start + size`.
class Cursor {
 public:
  Cursor(Memory memory, const uint8_t *start, size_t size)
    : memory_(memory), failed_(false), at_(start), end_(start + size) {}

  bool failed() const { return failed_; }
  void fail() { failed_ = true; }
  const uint8_t *at() const { return at_; }
  size_t left() const { return static_cast<size_t>(end_ - at_); }

  // An unsigned integer of at most `maximum`.
  uint32_t number(uint32_t maximum);

  // An unsigned integer from `minimum` to 65535.
  uint16_t size(uint16_t minimum = 1);

  // An integer of either sign that fits 32 bits.
  int32_t integer();

  // The head of an array; its length.
  uint32_t array() { return head(ARRAY); }

  // A byte string: its address, its length in `size`.
  const uint8_t *bytes(size_t &size);

  // A byte string of exactly `size` bytes.
  const uint8_t *bytes_of(uint32_t size);

  // Any item with all that is in it.
  void skip();

  // The bytes of a text, which has to be `expected`.
  void text(const char *expected);

 private:
  static constexpr uint8_t UNSIGNED = 0, NEGATIVE = 1, BYTES = 2, TEXT = 3, ARRAY = 4;

  uint8_t next();
  uint32_t head(uint8_t major);
  uint32_t any_head(uint8_t &major);
  const uint8_t *take(uint32_t size);

  Memory memory_;
  bool failed_;
  const uint8_t *at_;
  const uint8_t* end_;
};

}  // namespace tiny
}  // namespace maille
