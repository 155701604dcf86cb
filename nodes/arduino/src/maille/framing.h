// Frames of the serial link: COBS, delimiter, CRC (SERIAL.md, section 1).
#ifndef MAILLE_FRAMING_H
#define MAILLE_FRAMING_H

#include <stdint.h>

namespace maille {

const uint8_t MAX_FRAME_BYTES = 64;                 // on the wire, with the delimiter
const uint8_t MAX_BODY_BYTES = MAX_FRAME_BYTES - 2; // header, payload and CRC
const uint8_t CRC_BYTES = 2;

// Takes bytes as they come, whatever comes, and never holds more than one frame.
class FrameReader {
 public:
  enum Found : uint8_t { NOTHING, FRAME, DAMAGED };

  // After FRAME, `body` and `body_bytes` are the frame without its CRC until the next call.
  Found take(uint8_t byte);
  // Forget half a frame, as after a change of speed.
  void clear();

  const uint8_t* body() const { return body_; }
  uint8_t body_bytes() const { return body_bytes_; }
  // Bytes since the last delimiter, or of the frame just found; stays at 65535.
  uint16_t wire_bytes() const { return ended_ ? ended_ : wire_bytes_; }
  uint16_t pending_bytes() const { return wire_bytes_; }

 private:
  Found end();

  uint8_t body_bytes_ = 0;
  uint8_t block_left_ = 0;
  uint16_t wire_bytes_ = 0;
  uint16_t ended_ = 0;
  uint8_t body_[MAX_BODY_BYTES];
};

// Builds one frame; `put` header and payload, then `finish`.
class FrameWriter {
 public:
  void put(uint8_t byte);
  void put(const uint8_t* bytes, uint8_t size);
  // Adds CRC and delimiter; the whole frame is `wire` of the returned size.
  uint8_t finish();
  const uint8_t* wire() const { return wire_; }

 private:
  void append(uint8_t byte);

  uint8_t size_ = 1;
  uint8_t block_ = 0;
  uint16_t crc_ = 0xFFFF;
  uint8_t wire_[MAX_FRAME_BYTES];
};

}  // namespace maille

#endif
