// Where the bytes of a model lie, and how one of them is read.
//
// On AVR flash and EEPROM are not in the data space; elsewhere all three are plain memory.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __AVR__
#include <avr/eeprom.h>
#include <avr/pgmspace.h>
#endif

namespace maille {

// FLASH is what PROGMEM data has: below 64 KiB, so that one 16-bit pointer reaches it.
enum class Memory : uint8_t { FLASH, RAM, EEPROM };

struct FlashReader {
  uint8_t byte(const uint8_t *at) const {
#ifdef __AVR__
    return pgm_read_byte(at);
#else
    return *at;
#endif
  }
};

struct RamReader {
  uint8_t byte(const uint8_t *at) const { return *at; }
};

struct EepromReader {
  uint8_t byte(const uint8_t *at) const {
#ifdef __AVR__
    return eeprom_read_byte(at);
#else
    return *at;
#endif
  }
};

inline uint8_t read_byte(Memory memory, const uint8_t *at) {
#ifdef __AVR__
  if (memory == Memory::FLASH) {
    return FlashReader().byte(at);
  }
  if (memory == Memory::EEPROM) {
    return EepromReader().byte(at);
  }
#else
  (void)memory;
#endif
  return *at;
}

inline void copy_bytes(Memory memory, uint8_t* to, const uint8_t* from, size_t count) {
#ifdef __AVR__
  if (memory == Memory::FLASH) {
    memcpy_P(to, from, count);
    return;
  }
  if (memory == Memory::EEPROM) {
    eeprom_read_block(to, from, count);
    return;
  }
#else
  (void)memory;
#endif
  memcpy(to, from, count);
}

// Reads from whichever memory it is told: one copy of the code that uses it, some cycles a byte.
struct AnyReader {
  Memory memory;
  uint8_t byte(const uint8_t *at) const { return read_byte(memory, at); }
};

// Little-endian, at any alignment.
inline uint16_t read_word(Memory memory, const uint8_t *at) {
  const uint8_t low = read_byte(memory, at);
  return static_cast<uint16_t>(low | static_cast<uint16_t>(read_byte(memory, at + 1)) << 8);
}

inline uint32_t read_long(Memory memory, const uint8_t *at) {
  const uint16_t low = read_word(memory, at);
  return low | static_cast<uint32_t>(read_word(memory, at + 2)) << 16;
}

}  // namespace maille
