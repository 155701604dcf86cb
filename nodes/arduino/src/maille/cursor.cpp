#include "cursor.h"

#ifdef __AVR__
#pragma GCC optimize("O2")  // a run goes through all heads of a model: here size is not what counts
#endif

namespace maille {
namespace tiny {

uint8_t Cursor::next() {
  if (failed_ || at_ == end_) {
    failed_ = true;
    return 0;
  }
  return read_byte(memory_, at_++);
}

uint32_t Cursor::any_head(uint8_t &major) {
  const uint8_t first = next();
  major = first >> 5;
  const uint8_t information = first & 31;
  if (information < 24) return information;
  if (information == 24) {
    const uint8_t value = next();
    if (value < 24) failed_ = true;  // a shorter head would have done
    return failed_ ? 0 : value;
  }
  if (information == 25) {
    const uint8_t high = next();
    const uint16_t value = static_cast<uint16_t>(high << 8 | next());
    if (high == 0) failed_ = true;
    return failed_ ? 0 : value;
  }
  if (information != 26) {  // 64 bits, reserved or of indefinite length: not in this format
    failed_ = true;
    return 0;
  }
  uint32_t value = 0;
  for (uint8_t bytes = 4; bytes != 0; bytes--) value = value << 8 | next();
  if (value < 0x10000) failed_ = true;
  return failed_ ? 0 : value;
}

uint32_t Cursor::head(uint8_t major) {
  uint8_t found;
  const uint32_t value = any_head(found);
  if (found != major) {
    failed_ = true;
  }
  return failed_ ? 0 : value;
}

uint32_t Cursor::number(uint32_t maximum) {
  if (!failed_ && at_ != end_ && maximum >= 24) {
    const uint8_t first = read_byte(memory_, at_);
    if (first < 24) {  // most of them
      at_++;
      return first;
    }
  }
  const uint32_t value = head(UNSIGNED);
  if (value > maximum) failed_ = true;
  return failed_ ? 0 : value;
}

int32_t Cursor::integer() {
  uint8_t major;
  const uint32_t value = any_head(major);
  if (major > NEGATIVE || value > 0x7FFFFFFF) {
    failed_ = true;
    return 0;
  }
  return major == NEGATIVE ? -1 - static_cast<int32_t>(value) : static_cast<int32_t>(value);
}

uint16_t Cursor::size(uint16_t minimum) {
  const uint16_t value = static_cast<uint16_t>(number(65535));
  if (value < minimum) {
    failed_ = true;
  }
  return value;
}

const uint8_t *Cursor::take(uint32_t size) {
  if (failed_ || size > left()) {
    failed_ = true;
    return nullptr;
  }
  const uint8_t *start = at_;
  at_ += size;
  return start;
}

const uint8_t *Cursor::bytes(size_t &size) {
  const uint32_t length = head(BYTES);
  const uint8_t *start = take(length);
  size = start != nullptr ? static_cast<size_t>(length) : 0;
  return start;
}

const uint8_t *Cursor::bytes_of(uint32_t size) {
  const uint32_t length = head(BYTES);
  if (length != size) {
    failed_ = true;
  }
  return take(length);
}

void Cursor::text(const char *expected) {
  uint32_t length = head(TEXT);
  while (*expected != 0 && length != 0) {
    if (next() != static_cast<uint8_t>(*expected++)) {
      failed_ = true;
    }
    length--;
  }
  if (*expected != 0 || length != 0) {
    failed_ = true;
  }
}

void Cursor::skip() {
  uint32_t items = 1;
  while (items != 0 && !failed_) {
    items--;
    uint8_t major;
    const uint32_t value = any_head(major);
    if (major == BYTES || major == TEXT) {
      take(value);
    } else if (major == ARRAY) {
      // Each item takes a byte at least: more of them than bytes is no document.
      if (value > left()) {
        failed_ = true;
      }
      items += value;
    } else if (major > NEGATIVE) {
      failed_ = true;
    }
  }
}

}  // namespace tiny
}  // namespace maille
