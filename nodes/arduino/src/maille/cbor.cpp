#include "cbor.h"

#include <string.h>

namespace maille {

uint32_t CborReader::head(uint8_t major, uint32_t maximum) {
  if (failed_ || next_ == end_ || (*next_ & 0xE0) != major) {
    failed_ = true;
    return 0;
  }
  const uint8_t information = *next_ & 0x1F;
  uint32_t value = information;
  ++next_;
  if (information >= 24) {
    if (information > 27) {
      failed_ = true;
      return 0;
    }
    uint8_t length = static_cast<uint8_t>(1 << (information - 24));
    if (end_ - next_ < length) {
      failed_ = true;
      return 0;
    }
    value = 0;
    while (length--) {
      // Longer forms are to be taken, larger numbers are not.
      if (value >> 24) failed_ = true;
      value = value << 8 | *next_++;
    }
  }
  if (value > maximum) failed_ = true;
  return failed_ ? 0 : value;
}

uint32_t CborReader::number(uint32_t maximum) { return head(0x00, maximum); }

bool CborReader::boolean() {
  const bool value = next_ != end_ && *next_ == 0xF5;
  if (value || (next_ != end_ && *next_ == 0xF4)) {
    ++next_;
  } else {
    failed_ = true;
  }
  return value && !failed_;
}

uint16_t CborReader::array() { return static_cast<uint16_t>(head(0x80, 0xFFFF)); }

void CborReader::array(uint8_t elements) {
  if (head(0x80, 0xFF) != elements) failed_ = true;
}

const uint8_t* CborReader::string(uint8_t major, uint16_t* size) {
  *size = static_cast<uint16_t>(head(major, 0xFFFF));
  if (end_ - next_ < static_cast<int32_t>(*size)) failed_ = true;
  if (failed_) *size = 0;
  const uint8_t* start = next_;
  next_ += *size;
  return start;
}

bool CborReader::null() {
  if (failed_ || next_ == end_ || *next_ != 0xF6) return false;
  ++next_;
  return true;
}

void CborWriter::byte(uint8_t value) {
  if (size_ == capacity_) {
    failed_ = true;
  } else {
    bytes_[size_++] = value;
  }
}

void CborWriter::head(uint8_t major, uint32_t value) {
  if (value < 24) {
    byte(major | static_cast<uint8_t>(value));
    return;
  }
  uint8_t shift = value <= 0xFF ? 8 : value <= 0xFFFF ? 16 : 32;
  byte(major | (shift == 8 ? 24 : shift == 16 ? 25 : 26));
  while (shift) {
    shift -= 8;
    byte(static_cast<uint8_t>(value >> shift));
  }
}

void CborWriter::small(uint8_t value) { head(0x00, value); }

void CborWriter::copy(const uint8_t* bytes, uint16_t size) {
  if (capacity_ - size_ < size) {
    failed_ = true;
    return;
  }
  memcpy(bytes_ + size_, bytes, size);
  size_ += size;
}

void CborWriter::bytes(const uint8_t* bytes, uint16_t size) {
  head(0x40, size);
  copy(bytes, size);
}

uint8_t* CborWriter::bytes(uint16_t size) {
  head(0x40, size);
  if (failed_ || capacity_ - size_ < size) {
    failed_ = true;
    return nullptr;
  }
  uint8_t* start = bytes_ + size_;
  size_ += size;
  return start;
}

void CborWriter::text(const char* text) {
  const uint16_t size = static_cast<uint16_t>(strlen(text));
  head(0x60, size);
  copy(reinterpret_cast<const uint8_t*>(text), size);
}

}  // namespace maille
