// The link, framing and CBOR of the board for tests on a PC: plain C functions in a shared library.
#include <stdlib.h>
#include <string.h>

#include "maille/cbor.h"
#include "maille/framing.h"
#include "maille/link.h"

namespace {

struct Board {
  maille::Link link;
  uint8_t written[4096];
  uint32_t written_bytes;
  uint8_t segments[4096];
  uint8_t message[1024];
};

void keep(void* context, const uint8_t* bytes, uint8_t size) {
  Board* board = static_cast<Board*>(context);
  if (board->written_bytes + size > sizeof board->written) abort();
  memcpy(board->written + board->written_bytes, bytes, size);
  board->written_bytes += size;
}

}  // namespace

extern "C" {

void* maille_board_new(uint32_t boot, uint16_t max_message, uint8_t window, const uint8_t* schema,
                       uint8_t rates, uint8_t cause, uint16_t now_ms) {
  Board* board = new Board();
  maille::LinkConfig config = {boot, max_message, window, {0, 0, 0, 0}, rates, cause};
  memcpy(config.schema, schema, 4);
  board->written_bytes = 0;
  board->link.begin(config, keep, board, now_ms);
  return board;
}

void maille_board_delete(void* board) { delete static_cast<Board*>(board); }

int maille_board_receive(void* board, uint8_t byte, uint16_t now_ms) {
  return static_cast<Board*>(board)->link.receive(byte, now_ms);
}

int maille_board_poll(void* board, uint16_t now_ms) {
  return static_cast<Board*>(board)->link.poll(now_ms);
}

int maille_board_send(void* board_, const uint8_t* message, uint16_t size, uint16_t now_ms) {
  Board* board = static_cast<Board*>(board_);
  if (size > sizeof board->message || board->link.sending() || !board->link.open()) return 0;
  memcpy(board->message, message, size);
  return board->link.send(board->message, size, now_ms);
}

void maille_board_busy(void* board, int busy, uint16_t now_ms) {
  static_cast<Board*>(board)->link.set_busy(busy != 0, now_ms);
}

int maille_board_open(void* board) { return static_cast<Board*>(board)->link.open(); }
int maille_board_rate(void* board) { return static_cast<Board*>(board)->link.rate(); }
int maille_board_bad(void* board) { return static_cast<Board*>(board)->link.bad(); }

// Copies the last segment; bit 16 FIRST, bit 17 LAST, below that its size.
int maille_board_segment(void* board_, uint8_t* out) {
  const maille::Link& link = static_cast<Board*>(board_)->link;
  memcpy(out, link.segment(), link.segment_bytes());
  return link.segment_bytes() | (link.segment_first() ? 1 << 16 : 0) |
         (link.segment_last() ? 1 << 17 : 0);
}

// Copies what was written since the last call.
int maille_board_written(void* board_, uint8_t* out) {
  Board* board = static_cast<Board*>(board_);
  const uint32_t size = board->written_bytes;
  memcpy(out, board->written, size);
  board->written_bytes = 0;
  return static_cast<int>(size);
}

// Decodes frames: for each, its size (2 bytes, 0xFFFF if damaged) and its body. Returns bytes in `out`.
int maille_frames(const uint8_t* wire, uint32_t size, uint8_t* out) {
  maille::FrameReader reader;
  uint8_t* next = out;
  for (uint32_t index = 0; index < size; ++index) {
    const maille::FrameReader::Found found = reader.take(wire[index]);
    if (found == maille::FrameReader::NOTHING) continue;
    const uint16_t bytes = found == maille::FrameReader::FRAME ? reader.body_bytes() : 0xFFFF;
    *next++ = static_cast<uint8_t>(bytes);
    *next++ = static_cast<uint8_t>(bytes >> 8);
    if (found == maille::FrameReader::FRAME) {
      memcpy(next, reader.body(), bytes);
      next += bytes;
    }
  }
  return static_cast<int>(next - out);
}

int maille_frame(const uint8_t* body, uint8_t size, uint8_t* out) {
  maille::FrameWriter writer;
  writer.put(body, size);
  const uint8_t wire_bytes = writer.finish();
  memcpy(out, writer.wire(), wire_bytes);
  return wire_bytes;
}

// Reads one CBOR item of at most `depth` levels and writes it again. Returns its size, or -1.
static bool copy_item(maille::CborReader& reader, maille::CborWriter& writer, const uint8_t*& next,
                      const uint8_t* end, int depth);

int maille_cbor_copy(const uint8_t* bytes, uint16_t size, uint8_t* out, uint16_t capacity) {
  maille::CborWriter writer(out, capacity);
  const uint8_t* next = bytes;
  maille::CborReader whole(bytes, size);
  if (!copy_item(whole, writer, next, bytes + size, 3)) return -1;
  if (!whole.done() || writer.failed()) return -1;
  return writer.size();
}

static bool copy_item(maille::CborReader& reader, maille::CborWriter& writer, const uint8_t*& next,
                      const uint8_t* end, int depth) {
  next = reader.position();
  if (next == end) return false;
  uint16_t size;
  switch (*next & 0xE0) {
    case 0x00:
      writer.number(reader.number());
      break;
    case 0x40: {
      const uint8_t* bytes = reader.bytes(&size);
      writer.bytes(bytes, size);
      break;
    }
    case 0x60: {
      const char* text = reader.text(&size);
      char copy[1024];
      if (reader.failed() || size >= sizeof copy || memchr(text, 0, size)) return false;
      memcpy(copy, text, size);
      copy[size] = 0;
      writer.text(copy);
      break;
    }
    case 0x80: {
      if (depth == 0) return false;
      const uint16_t elements = reader.array();
      if (reader.failed()) return false;
      writer.array(elements);
      for (uint16_t index = 0; index < elements; ++index) {
        if (!copy_item(reader, writer, next, end, depth - 1)) return false;
      }
      break;
    }
    default:
      if (reader.null()) {
        writer.null();
      } else {
        writer.boolean(reader.boolean());
      }
  }
  return !reader.failed();
}

}  // extern "C"
