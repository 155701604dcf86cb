#include "link.h"

namespace maille {

namespace {

enum Kind : uint8_t { HELLO = 1, OPEN = 2, STATUS = 3, DATA = 4, RATE = 5, CLOSE = 6 };

const uint8_t KIND_BITS = 0x07;
const uint8_t FIRST = 0x08;
const uint8_t LAST = 0x10;
const uint8_t ASKS = 0x20;
const uint8_t RESERVED = 0x40;
const uint8_t FROM_BOARD = 0x80;

const uint8_t HOST_HEADER_BYTES = 5;
const uint8_t BOARD_HEADER_BYTES = 6;
const uint8_t MAX_PAYLOAD_BYTES = MAX_BODY_BYTES - BOARD_HEADER_BYTES - CRC_BYTES;
const uint8_t LINK_VERSION = 1;

const uint16_t HELLO_FAST_MS = 50;
const uint16_t HELLO_FAST_FOR_MS = 1000;
const uint16_t HELLO_SLOW_MS = 500;
const uint16_t STATUS_MS = 100;
const uint16_t HOST_SILENT_MS = 2000;
const uint16_t REPEAT_MS = 60;
const uint16_t REPEAT_ASKED_MS = 15;
const uint16_t NAK_SPACING_MS = 5;
const uint16_t RATE_TRIAL_MS = 200;
const uint16_t RATE_GARBAGE_BYTES = 16;
const uint16_t RATE_GARBAGE_MS = 100;

uint16_t since(uint16_t then_ms, uint16_t now_ms) { return now_ms - then_ms; }

uint32_t little_endian(const uint8_t* bytes) {
  return static_cast<uint32_t>(bytes[0]) | static_cast<uint32_t>(bytes[1]) << 8 |
         static_cast<uint32_t>(bytes[2]) << 16 | static_cast<uint32_t>(bytes[3]) << 24;
}

}  // namespace

void Link::begin(const LinkConfig& config, Write write, void* context, uint16_t now_ms) {
  reader_.clear();
  config_ = config;
  write_ = write;
  context_ = context;
  out_ = nullptr;
  nonce_ = 0;
  bad_ = 0;
  nak_ms_ = now_ms - NAK_SPACING_MS;
  session_ = 0;
  seen_ = 0;
  rate_ = 0;
  garbage_bytes_ = 0;
  busy_ = ended_ = reply_ = nak_ = trial_ = assembling_ = data_out_ = data_now_ = false;
  alone(now_ms);
}

uint8_t Link::receive(uint8_t byte, uint16_t now_ms) {
  switch (reader_.take(byte)) {
    case FrameReader::NOTHING:
      return LINK_NOTHING;
    case FrameReader::DAMAGED:
      count_bad(reader_.wire_bytes());
      return LINK_NOTHING;
    default:
      break;
  }
  if (!valid()) {
    count_bad(reader_.body_bytes());
    return LINK_NOTHING;
  }
  return frame(now_ms);
}

bool Link::valid() const {
  const uint8_t* body = reader_.body();
  const uint8_t size = reader_.body_bytes();
  if (size < HOST_HEADER_BYTES || body[4] == 0) return false;
  const uint8_t control = body[0];
  const uint8_t kind = control & KIND_BITS;
  if (control & (RESERVED | FROM_BOARD) || kind < HELLO || kind > CLOSE) return false;
  if (kind != DATA && control & (FIRST | LAST)) return false;
  if ((body[1] == 0) != (kind == HELLO)) return false;
  const uint8_t payload_bytes = size - HOST_HEADER_BYTES;
  switch (kind) {
    case OPEN:
      return payload_bytes == 9;
    case DATA:
      return payload_bytes != 0;
    case RATE:
      return payload_bytes == 1 && body[HOST_HEADER_BYTES] < 4;
    default:
      return payload_bytes == 0;
  }
}

void Link::count_bad(uint16_t size) {
  if (bad_ < 0xFFFF) ++bad_;
  if (garbage_bytes_ < RATE_GARBAGE_BYTES) garbage_bytes_ += size < 0xFF ? size : 0xFF;
  nak_ = true;
}

uint8_t Link::frame(uint16_t now_ms) {
  const uint8_t* body = reader_.body();
  const uint8_t kind = body[0] & KIND_BITS;
  const bool own = session_ != 0 && body[1] == session_;
  if (own && kind != OPEN) {
    const uint8_t ahead = body[3] - seq_;
    if (ahead > (data_out_ ? 1 : 0)) {
      count_bad(reader_.body_bytes());
      return LINK_NOTHING;
    }
  }
  seen_ = body[4];
  if (kind == OPEN) return open_session(body, now_ms);
  if (kind == HELLO) {
    const uint8_t events = end_session(true, now_ms);
    hello_now_ = true;
    return events;
  }
  if (session_ == 0) {
    hello_now_ = true;
  } else if (own) {
    heard_ms_ = now_ms;
    garbage_bytes_ = 0;
    trial_ = false;
    return own_frame(body, now_ms);
  }
  return LINK_NOTHING;
}

uint8_t Link::open_session(const uint8_t* body, uint16_t now_ms) {
  const uint8_t* payload = body + HOST_HEADER_BYTES;
  const uint32_t nonce = little_endian(payload + 5);
  if (payload[0] != LINK_VERSION || little_endian(payload + 1) != config_.boot) {
    hello_now_ = true;
    return LINK_NOTHING;
  }
  if (session_ == body[1] && nonce == nonce_) {
    heard_ms_ = now_ms;
    reply_ = true;
    return LINK_NOTHING;
  }
  if (session_ == 0 && ended_ && nonce == nonce_) {
    hello_now_ = true;
    return LINK_NOTHING;
  }
  const uint8_t events = end_session(true, now_ms);
  session_ = body[1];
  nonce_ = nonce;
  heard_ms_ = written_ms_ = now_ms;
  garbage_bytes_ = 0;
  seq_ = expected_ = 0;
  nak_ = hello_now_ = false;
  reply_ = true;
  return events | LINK_OPENED;
}

uint8_t Link::own_frame(const uint8_t* body, uint16_t now_ms) {
  uint8_t events = LINK_NOTHING;
  if (body[3] != seq_) {
    const uint16_t left = out_bytes_ - out_start_;
    seq_ = body[3];
    data_out_ = false;
    out_start_ += left < MAX_PAYLOAD_BYTES ? left : MAX_PAYLOAD_BYTES;
    if (out_start_ == out_bytes_) {
      out_ = nullptr;
      events |= LINK_SENT;
    }
  }
  if (body[0] & ASKS) {
    reply_ = true;
    if (data_out_ && since(data_ms_, now_ms) >= REPEAT_ASKED_MS) data_now_ = true;
  }
  switch (body[0] & KIND_BITS) {
    case DATA:
      return events | take_data(body, now_ms);
    case RATE: {
      const uint8_t rate = body[HOST_HEADER_BYTES];
      const bool agreed = rate == 0 || config_.rates >> (rate - 1) & 1;
      const uint8_t answer[2] = {rate, agreed};
      write(RATE, seq_ + data_out_, answer, 2, now_ms);
      if (agreed) {
        events |= set_rate(rate);
        trial_ = true;
        trial_ms_ = now_ms;
      }
      return events;
    }
    case CLOSE:
      return events | end_session(false, now_ms);
    default:
      return events;
  }
}

uint8_t Link::take_data(const uint8_t* body, uint16_t now_ms) {
  reply_ = true;
  if (body[2] != expected_) return LINK_NOTHING;
  ++expected_;
  const bool first = body[0] & FIRST;
  if (first) message_bytes_ = 0;
  message_bytes_ += segment_bytes();
  if (first == assembling_ || message_bytes_ > config_.max_message) {
    return end_session(false, now_ms);
  }
  assembling_ = !(body[0] & LAST);
  return LINK_SEGMENT;
}

uint8_t Link::set_rate(uint8_t rate) {
  rate_ = rate;
  reader_.clear();
  garbage_bytes_ = 0;
  return LINK_RATE;
}

// A frame may be on its way after a silence: only more than a frame without an end is garbage.
bool Link::speed_changed(uint16_t now_ms) const {
  return rate_ != 0 && since(heard_ms_, now_ms) >= RATE_GARBAGE_MS &&
         (garbage_bytes_ >= RATE_GARBAGE_BYTES || reader_.pending_bytes() > MAX_FRAME_BYTES);
}

uint8_t Link::expire(uint16_t now_ms) {
  if (busy_ || session_ == 0) return LINK_NOTHING;
  uint8_t events = LINK_NOTHING;
  if (trial_) {
    if (since(trial_ms_, now_ms) >= RATE_TRIAL_MS) {
      trial_ = false;
      events = set_rate(0);
    }
  } else if (speed_changed(now_ms)) {
    return end_session(false, now_ms);
  }
  if (since(heard_ms_, now_ms) >= HOST_SILENT_MS) events |= end_session(false, now_ms);
  return events;
}

uint8_t Link::end_session(bool keep_rate, uint16_t now_ms) {
  if (session_ == 0) return LINK_NOTHING;
  out_ = nullptr;
  data_out_ = data_now_ = assembling_ = reply_ = nak_ = trial_ = false;
  session_ = 0;
  ended_ = true;
  uint8_t events = LINK_CLOSED;
  if (rate_ != 0 && !keep_rate) events |= set_rate(0);
  alone(now_ms);
  return events;
}

void Link::alone(uint16_t now_ms) {
  alone_ms_ = now_ms;
  hello_now_ = young_ = true;
}

bool Link::send(const uint8_t* message, uint16_t size, uint16_t now_ms) {
  if (session_ == 0 || out_ != nullptr || size == 0) return false;
  out_ = message;
  out_bytes_ = size;
  out_start_ = 0;
  if (!busy_) send_data(now_ms);
  return true;
}

void Link::set_busy(bool busy, uint16_t now_ms) {
  busy_ = busy;
  if (session_ == 0) return;
  write(STATUS, seq_ + data_out_, nullptr, 0, now_ms);
  if (busy) write(STATUS, seq_ + data_out_, nullptr, 0, now_ms);
}

uint8_t Link::poll(uint16_t now_ms) {
  const uint8_t events = expire(now_ms);
  if (session_ == 0) {
    if (!busy_) write_hello(now_ms);
    return events;
  }
  if (!busy_) {
    if (data_out_ && since(data_ms_, now_ms) >= REPEAT_MS) data_now_ = true;
    send_data(now_ms);
    if (nak_ && since(nak_ms_, now_ms) >= NAK_SPACING_MS) {
      nak_ms_ = now_ms;
      nak_ = false;
      write(STATUS | ASKS, seq_ + data_out_, nullptr, 0, now_ms);
    }
  }
  if (reply_ || since(written_ms_, now_ms) >= STATUS_MS) {
    write(STATUS, seq_ + data_out_, nullptr, 0, now_ms);
  }
  return events;
}

void Link::send_data(uint16_t now_ms) {
  if (out_ == nullptr || (data_out_ && !data_now_)) return;
  const uint16_t left = out_bytes_ - out_start_;
  uint8_t control = DATA;
  uint8_t size = MAX_PAYLOAD_BYTES;
  if (out_start_ == 0) control |= FIRST;
  if (left <= MAX_PAYLOAD_BYTES) {
    control |= LAST;
    size = static_cast<uint8_t>(left);
  }
  data_out_ = true;
  data_now_ = false;
  data_ms_ = now_ms;
  write(control, seq_, out_ + out_start_, size, now_ms);
}

void Link::write_hello(uint16_t now_ms) {
  if (!hello_now_ && since(hello_ms_, now_ms) < (young_ ? HELLO_FAST_MS : HELLO_SLOW_MS)) return;
  if (since(alone_ms_, now_ms) >= HELLO_FAST_FOR_MS) young_ = false;
  hello_now_ = false;
  hello_ms_ = now_ms;
  const LinkConfig& config = config_;
  const uint8_t payload[16] = {
      LINK_VERSION,
      static_cast<uint8_t>(config.boot),
      static_cast<uint8_t>(config.boot >> 8),
      static_cast<uint8_t>(config.boot >> 16),
      static_cast<uint8_t>(config.boot >> 24),
      config.window,
      static_cast<uint8_t>(config.max_message),
      static_cast<uint8_t>(config.max_message >> 8),
      config.schema[0],
      config.schema[1],
      config.schema[2],
      config.schema[3],
      config.rates,
      config.cause,
      static_cast<uint8_t>(bad_),
      static_cast<uint8_t>(bad_ >> 8),
  };
  write(HELLO, 0, payload, sizeof payload, now_ms);
}

void Link::write(uint8_t control, uint8_t seq, const uint8_t* payload, uint8_t size,
                 uint16_t now_ms) {
  FrameWriter frame;
  frame.put(control | FROM_BOARD);
  frame.put(session_);
  frame.put(seq);
  frame.put(session_ ? expected_ : 0);
  frame.put(seen_);
  frame.put(busy_ ? 0 : config_.window);
  frame.put(payload, size);
  const uint8_t wire_bytes = frame.finish();
  write_(context_, frame.wire(), wire_bytes);
  written_ms_ = now_ms;
  reply_ = false;
}

}  // namespace maille
