// CRC-16/CCITT as avr-libc computes it (SERIAL.md, section 1). No table: 20 instructions a byte.
#ifndef MAILLE_CRC16_H
#define MAILLE_CRC16_H

#include <stdint.h>

namespace maille {

const uint16_t CRC16_START = 0xFFFF;

inline uint16_t crc16(uint16_t crc, uint8_t byte) {
  byte ^= static_cast<uint8_t>(crc);
  byte ^= static_cast<uint8_t>(byte << 4);
  return static_cast<uint16_t>(((static_cast<uint16_t>(byte) << 8) | (crc >> 8)) ^
                               static_cast<uint8_t>(byte >> 4) ^
                               (static_cast<uint16_t>(byte) << 3));
}

}  // namespace maille

#endif
