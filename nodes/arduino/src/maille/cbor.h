// The subset of CBOR that board messages use (SERIAL.md, section 8): unsigned numbers up to 2^32 - 1, byte and
// text strings, arrays, booleans, null; definite lengths only.
#ifndef MAILLE_CBOR_H
#define MAILLE_CBOR_H

#include <stdint.h>

namespace maille {

// Walks over one item in memory. The first thing that does not fit sets `failed`, and everything
// after that gives 0 or nothing: check once, at the end, with `done`.
class CborReader {
 public:
  CborReader(const uint8_t* bytes, uint16_t size) : next_(bytes), end_(bytes + size) {}

  uint32_t number(uint32_t maximum = 0xFFFFFFFF);
  bool boolean();
  // How many elements follow.
  uint16_t array();
  // An array of exactly that many elements.
  void array(uint8_t elements);
  // A byte string, in place.
  const uint8_t* bytes(uint16_t* size) { return string(0x40, size); }
  // A text, in place, not ended by a zero. That it is UTF-8 is not checked.
  const char* text(uint16_t* size) { return reinterpret_cast<const char*>(string(0x60, size)); }
  // Whether null stands next; it is taken if so.
  bool null();

  // What is read next.
  const uint8_t* position() const { return next_; }
  bool failed() const { return failed_; }
  // Everything was read, and nothing follows.
  bool done() const { return !failed_ && next_ == end_; }

 private:
  uint32_t head(uint8_t major, uint32_t maximum);
  const uint8_t* string(uint8_t major, uint16_t* size);

  const uint8_t* next_;
  const uint8_t* end_;
  bool failed_ = false;
};

// Writes the deterministic encoding into memory of the caller.
class CborWriter {
 public:
  CborWriter(uint8_t* bytes, uint16_t capacity) : bytes_(bytes), capacity_(capacity) {}

  void number(uint32_t value) { head(0x00, value); }
  // The same for what fits 8 bits: less code at each call on an AVR.
  void small(uint8_t value);
  void boolean(bool value) { byte(value ? 0xF5 : 0xF4); }
  void null() { byte(0xF6); }
  void array(uint16_t elements) { head(0x80, elements); }
  void bytes(const uint8_t* bytes, uint16_t size);
  // Room for `size` bytes of a byte string, for the caller to fill; null where there is none.
  uint8_t* bytes(uint16_t size);
  // Ended by a zero.
  void text(const char* text);
  // Items that are encoded already.
  void raw(const uint8_t* items, uint16_t size) { copy(items, size); }

  uint16_t size() const { return size_; }
  // It did not fit; what was written is of no use.
  bool failed() const { return failed_; }

 private:
  void head(uint8_t major, uint32_t value);
  void byte(uint8_t value);
  void copy(const uint8_t* bytes, uint16_t size);

  uint8_t* bytes_;
  uint16_t capacity_;
  uint16_t size_ = 0;
  bool failed_ = false;
};

}  // namespace maille

#endif
