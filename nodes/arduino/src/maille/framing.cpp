#include "framing.h"

#include "crc16.h"

namespace maille {

FrameReader::Found FrameReader::take(uint8_t byte) {
  ended_ = 0;
  if (byte == 0) return end();
  if (wire_bytes_ == 0) {
    body_bytes_ = 0;
    block_left_ = byte - 1;
  } else if (wire_bytes_ < MAX_FRAME_BYTES) {
    const bool code = block_left_ == 0;
    if (body_bytes_ < MAX_BODY_BYTES) body_[body_bytes_++] = code ? 0 : byte;
    block_left_ = (code ? byte : block_left_) - 1;
  }
  if (wire_bytes_ < 0xFFFF) ++wire_bytes_;
  return NOTHING;
}

FrameReader::Found FrameReader::end() {
  if (wire_bytes_ == 0) return NOTHING;
  ended_ = wire_bytes_;
  wire_bytes_ = 0;
  if (ended_ >= MAX_FRAME_BYTES || block_left_ != 0 || body_bytes_ <= CRC_BYTES) return DAMAGED;
  uint16_t crc = CRC16_START;
  for (uint8_t index = 0; index < body_bytes_; ++index) crc = crc16(crc, body_[index]);
  if (crc != 0) return DAMAGED;
  body_bytes_ -= CRC_BYTES;
  return FRAME;
}

void FrameReader::clear() {
  wire_bytes_ = 0;
  ended_ = 0;
}

void FrameWriter::append(uint8_t byte) {
  if (byte == 0) {
    wire_[block_] = size_ - block_;
    block_ = size_;
  } else {
    wire_[size_] = byte;
  }
  ++size_;
}

void FrameWriter::put(uint8_t byte) {
  crc_ = crc16(crc_, byte);
  append(byte);
}

void FrameWriter::put(const uint8_t* bytes, uint8_t size) {
  while (size--) put(*bytes++);
}

uint8_t FrameWriter::finish() {
  const uint16_t crc = crc_;
  append(static_cast<uint8_t>(crc));
  append(static_cast<uint8_t>(crc >> 8));
  wire_[block_] = size_ - block_;
  wire_[size_++] = 0;
  return size_;
}

}  // namespace maille
