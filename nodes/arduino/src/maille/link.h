// The board's end of the serial link (SERIAL.md, sections 2 to 6).
//
// No I/O and no clock: the caller brings bytes and milliseconds, and a function that writes. It is the twin of
// protocol/maille_protocol/serial/board_link.py and passes the same tests.
//
//   while (Serial.available()) handle(link.receive(Serial.read(), millis()));
//   handle(link.poll(millis()));
//
// Of the events of one call, handle SENT first, then CLOSED, OPENED, SEGMENT, RATE.
#ifndef MAILLE_LINK_H
#define MAILLE_LINK_H

#include <stdint.h>

#include "framing.h"

namespace maille {

// What a board says of itself in HELLO.
struct LinkConfig {
  uint32_t boot;          // drawn anew at each start, not 0
  uint16_t max_message;   // bytes of the longest message it takes, 32 or more
  uint8_t window;         // bytes that the receive buffer holds, 32 to 255
  uint8_t schema[4];      // of the board messages
  uint8_t rates;          // bit r - 1: can do rate r
  uint8_t cause;          // ResetCause
};

enum LinkEvent : uint8_t {
  LINK_NOTHING = 0,
  LINK_SENT = 1,     // the message given to `send` has arrived; its memory is free again
  LINK_CLOSED = 2,   // the session is over; a message under way is lost, its memory free again
  LINK_OPENED = 4,   // a session begins
  LINK_SEGMENT = 8,  // see `segment`; take it before the next call
  LINK_RATE = 16,    // change the speed to `rate` once everything written has left
};

const uint32_t LINK_BAUDS[4] = {115200, 250000, 500000, 1000000};

class Link {
 public:
  typedef void (*Write)(void* context, const uint8_t* bytes, uint8_t size);

  // The start of the board. `config` is copied, `write` must take a whole frame at once.
  void begin(const LinkConfig& config, Write write, void* context, uint16_t now_ms);

  // One byte from the line. Returns LinkEvent bits. May write.
  uint8_t receive(uint8_t byte, uint16_t now_ms);

  // What is due. Call it often, and only when every byte that came has been given to `receive`:
  // it may offer credit. Returns LinkEvent bits.
  uint8_t poll(uint16_t now_ms);

  // Send a message of at least one byte. It must stay as it is until SENT or CLOSED. False:
  // there is no session, or one is under way.
  bool send(const uint8_t* message, uint16_t size, uint16_t now_ms);

  // Before and after a time in which no byte is read. Before `set_busy(false)`, bring what came.
  void set_busy(bool busy, uint16_t now_ms);

  bool open() const { return session_ != 0; }
  bool sending() const { return out_ != nullptr; }
  uint8_t rate() const { return rate_; }
  // Frames thrown away since the start; stays at 65535.
  uint16_t bad() const { return bad_; }

  // The segment of a message that came last.
  const uint8_t* segment() const { return reader_.body() + 5; }
  uint8_t segment_bytes() const { return reader_.body_bytes() - 5; }
  bool segment_first() const { return reader_.body()[0] & 0x08; }
  bool segment_last() const { return reader_.body()[0] & 0x10; }

 private:
  bool valid() const;
  uint8_t frame(uint16_t now_ms);
  uint8_t open_session(const uint8_t* body, uint16_t now_ms);
  uint8_t own_frame(const uint8_t* body, uint16_t now_ms);
  uint8_t take_data(const uint8_t* body, uint16_t now_ms);
  uint8_t expire(uint16_t now_ms);
  uint8_t end_session(bool keep_rate, uint16_t now_ms);
  uint8_t set_rate(uint8_t rate);
  void alone(uint16_t now_ms);
  void count_bad(uint16_t size);
  bool speed_changed(uint16_t now_ms) const;
  void send_data(uint16_t now_ms);
  void write(uint8_t control, uint8_t seq, const uint8_t* payload, uint8_t size, uint16_t now_ms);
  void write_hello(uint16_t now_ms);

  LinkConfig config_;
  Write write_;
  void* context_;
  const uint8_t* out_;      // the message under way
  uint16_t out_bytes_;
  uint16_t out_start_;      // of the segment under way
  uint32_t nonce_;
  uint16_t message_bytes_;  // of the message that is coming, so far
  uint16_t garbage_bytes_;
  uint16_t bad_;
  uint16_t hello_ms_;       // last HELLO
  uint16_t alone_ms_;       // since when there is no session
  uint16_t heard_ms_;
  uint16_t written_ms_;
  uint16_t data_ms_;        // last sending of the segment under way
  uint16_t nak_ms_;
  uint16_t trial_ms_;
  uint8_t session_;
  uint8_t seq_;             // of the segment under way, or the next one
  uint8_t expected_;
  uint8_t seen_;
  uint8_t rate_;
  bool busy_ : 1;
  bool young_ : 1;          // HELLO is said fast
  bool hello_now_ : 1;
  bool ended_ : 1;          // `nonce_` is that of a session that has ended
  bool data_out_ : 1;       // the segment has been sent
  bool data_now_ : 1;       // it is to be sent again
  bool assembling_ : 1;
  bool reply_ : 1;
  bool nak_ : 1;
  bool trial_ : 1;
  FrameReader reader_;      // last: an AVR reaches only the first 63 bytes of an object cheaply
};

}  // namespace maille

#endif
