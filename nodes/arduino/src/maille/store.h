// Keeps delivered models in an EEPROM or in RAM: at most one that is ready, and one that is coming.
//
// The region holds two records of what lies where, then the models, the first from the low end and the
// second from the high end: as long as both fit, the old one stays until the new one has passed its
// tests. A record becomes valid by the writing of its last byte, its state.
#pragma once
#include <stdint.h>

#include "memory.h"

namespace maille {

class ModelStore {
 public:
  // `size` bytes at `start`; an EEPROM address, or RAM.
  void begin(Memory memory, uint8_t* start, uint16_t size);

  Memory memory() const { return memory_; }
  uint16_t max_model_bytes() const { return size_ > RECORDS_BYTES ? size_ - RECORDS_BYTES : 0; }

  // The model that is ready.
  bool ready() const { return ready_ != NONE; }
  const uint8_t* ready_start() const { return start_of(ready_); }
  uint16_t ready_size() const { return record_size(ready_); }
  void ready_sha256(uint8_t sha256[32]) const;
  bool ready_is(const uint8_t sha256[32]) const { return ready() && same(ready_, sha256); }

  bool coming_is(const uint8_t sha256[32]) const {
    return coming_ != NONE && same(coming_, sha256);
  }

  // Makes room for a model that is to come. The ready one goes if there is no room for both. Returns false if
  // it is too large.
  bool prepare(uint16_t size, const uint8_t sha256[32]);
  void write(uint16_t offset, const uint8_t* bytes, uint16_t size);
  const uint8_t* coming_start() const { return start_of(coming_); }
  uint16_t coming_size() const { return record_size(coming_); }
  // CRC-32 of what was written, read back.
  uint32_t coming_crc32() const;

  // The one that came takes the place of the ready one, or is forgotten.
  void accept();
  void drop();
  void evict();

 private:
  static constexpr uint8_t NONE = 0xFF;
  static constexpr uint8_t RECORD_BYTES = 36;  // state, generation, size, SHA-256
  static constexpr uint8_t RECORDS_BYTES = 2 * RECORD_BYTES;
  static constexpr uint8_t FREE = 0xFF, COMING = 0x7F, READY = 0x3F;

  uint8_t* record(uint8_t side) const { return start_ + side * RECORD_BYTES; }
  uint8_t read(const uint8_t* at) const { return read_byte(memory_, at); }
  void put(uint8_t* at, uint8_t value);
  uint16_t record_size(uint8_t side) const { return read_word(memory_, record(side) + 2); }
  uint8_t* start_of(uint8_t side) const;
  bool same(uint8_t side, const uint8_t sha256[32]) const;

  uint8_t* start_ = nullptr;
  uint16_t size_ = 0;
  Memory memory_ = Memory::RAM;
  uint8_t ready_ = NONE;   // side 0 or 1
  uint8_t coming_ = NONE;
};

}  // namespace maille
