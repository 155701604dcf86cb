#include "store.h"

namespace maille {

void ModelStore::put(uint8_t* at, uint8_t value) {
#ifdef __AVR__
  if (memory_ == Memory::EEPROM) {
    eeprom_update_byte(at, value);
    return;
  }
#endif
  *at = value;
}

void ModelStore::begin(Memory memory, uint8_t* start, uint16_t size) {
  memory_ = memory;
  start_ = start;
  size_ = size;
  ready_ = coming_ = NONE;
  if (max_model_bytes() == 0) return;
  for (uint8_t side = 0; side < 2; side++) {
    if (read(record(side)) != READY || record_size(side) > max_model_bytes()) {
      if (read(record(side)) != FREE) put(record(side), FREE);
    } else if (ready_ == NONE) {
      ready_ = side;
    } else {
      // Power went between the two steps of `accept`: the later one counts.
      const int8_t later = static_cast<int8_t>(read(record(1) + 1) - read(record(0) + 1));
      const uint8_t old = later > 0 ? 0 : 1;
      put(record(old), FREE);
      ready_ = static_cast<uint8_t>(1 - old);
    }
  }
}

uint8_t* ModelStore::start_of(uint8_t side) const {
  return side == 0 ? start_ + RECORDS_BYTES : start_ + size_ - record_size(1);
}

void ModelStore::ready_sha256(uint8_t sha256[32]) const {
  for (uint8_t i = 0; i < 32; i++) sha256[i] = read(record(ready_) + 4 + i);
}

bool ModelStore::same(uint8_t side, const uint8_t sha256[32]) const {
  for (uint8_t i = 0; i < 32; i++) {
    if (read(record(side) + 4 + i) != sha256[i]) return false;
  }
  return true;
}

bool ModelStore::prepare(uint16_t size, const uint8_t sha256[32]) {
  drop();
  if (size == 0 || size > max_model_bytes()) return false;
  if (ready() && size > max_model_bytes() - record_size(ready_)) evict();
  const uint8_t side = ready_ == 0 ? 1 : 0;
  uint8_t* at = record(side);
  put(at, COMING);
  put(at + 1, ready() ? static_cast<uint8_t>(read(record(ready_) + 1) + 1) : 0);
  put(at + 2, static_cast<uint8_t>(size));
  put(at + 3, static_cast<uint8_t>(size >> 8));
  for (uint8_t i = 0; i < 32; i++) put(at + 4 + i, sha256[i]);
  coming_ = side;
  return true;
}

void ModelStore::write(uint16_t offset, const uint8_t* bytes, uint16_t size) {
  if (coming_ == NONE || size > coming_size() || offset > coming_size() - size) return;
  uint8_t* at = start_of(coming_) + offset;
  while (size-- != 0) put(at++, *bytes++);
}

uint32_t ModelStore::coming_crc32() const {
  uint32_t crc = 0xFFFFFFFF;
  const uint8_t* at = coming_start();
  for (uint16_t left = coming_size(); left != 0; left--) {
    crc ^= read(at++);
    for (uint8_t bit = 0; bit < 8; bit++) crc = crc & 1 ? crc >> 1 ^ 0xEDB88320UL : crc >> 1;
  }
  return ~crc;
}

void ModelStore::accept() {
  put(record(coming_), READY);
  const uint8_t old = ready_;
  ready_ = coming_;
  coming_ = NONE;
  if (old != NONE) put(record(old), FREE);
}

void ModelStore::drop() {
  if (coming_ != NONE) put(record(coming_), FREE);
  coming_ = NONE;
}

void ModelStore::evict() {
  if (ready()) put(record(ready_), FREE);
  ready_ = NONE;
}

}  // namespace maille
