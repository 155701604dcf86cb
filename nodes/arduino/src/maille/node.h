// What a board says and does on the link (SERIAL.md sections 8 and 9): no I/O, no clock of its own.
//
// The shell (Maille.cpp) brings bytes and milliseconds and carries out what `Platform` asks. Models
// are run inside `poll`, one at a time. Senses and delivered models are extensions: a sketch that
// does not ask for them does not carry their code.
#pragma once
#include <stdint.h>

#include "board_codes.h"
#include "cbor.h"
#include "link.h"
#include "model.h"

#ifndef MAILLE_MESSAGE_BYTES
#ifdef __AVR_ATmega2560__
#define MAILLE_MESSAGE_BYTES 512
#else
#define MAILLE_MESSAGE_BYTES 128
#endif
#endif
#ifndef MAILLE_ANSWER_BYTES
#ifdef __AVR_ATmega2560__
#define MAILLE_ANSWER_BYTES 256
#else
#define MAILLE_ANSWER_BYTES 104
#endif
#endif

namespace maille {

// A model that is part of the firmware: addresses in flash.
struct BuiltInModel {
  const uint8_t* document;
  uint16_t size;
  const uint8_t* sha256;
  const tiny::Layers* layers;  // those that it uses; in RAM
};

// What the core needs of the machine.
struct Platform {
  Link::Write write;               // a whole frame
  uint32_t (*micros)();
  uint16_t (*free_ram)();
};

// What a board says of itself in INFO. Texts are kept by the caller.
struct NodeConfig {
  const char* name;                // for people, at most 24 characters
  const char* mcu;
  uint32_t clock_hz;
  uint32_t flash_bytes;
  uint32_t flash_free;
  uint16_t ram_bytes;
  uint8_t identity[8];             // of this very chip
  uint32_t resets;
};

class Node;

// Delivered models: slots behind the built-in ones. See delivery.h.
class DeliveryExtension {
 public:
  virtual uint8_t max_models() const = 0;
  virtual uint16_t max_model_bytes() const = 0;
  // The model that is held and ready; false if none is.
  virtual bool held(tiny::Model& model, uint8_t sha256[32]) const = 0;
  // DEPLOY, CHUNK or EVICT, behind its code; false if it is malformed.
  virtual bool message(Node& node, uint8_t code, CborReader& fields, uint32_t now_ms) = 0;
  // Checks a model that is complete, if there is one; the arena is free. Whether it did.
  virtual bool work(Node& node) = 0;
  // Something to say? Writes one message if so.
  virtual bool say(Node& node, CborWriter& out, uint32_t now_ms) = 0;
  virtual void session_ended() = 0;
};

// Models fed by the board's own sensors. See senses.h.
class SenseExtension {
 public:
  virtual uint8_t sensor_count() const = 0;
  virtual void describe(uint8_t sensor, CborWriter& out) const = 0;
  virtual bool message(Node& node, uint8_t code, CborReader& fields, uint32_t now_ms) = 0;
  // Runs what is due, if the node is idle. Returns whether something was run.
  virtual bool run(Node& node, uint32_t now_ms) = 0;
  virtual bool say(Node& node, CborWriter& out, uint32_t now_ms) = 0;
  virtual void session_ended() = 0;
};

class Node {
 public:
  // Memory that models compute in; `bytes` of it.
  void begin(const NodeConfig& config, const Platform& platform, const LinkConfig& link,
             uint8_t* arena, uint16_t arena_bytes, uint32_t now_ms);

  // Built-in models take the slots 0 to count - 1. Each is checked and tested here; one that fails
  // is not offered to the mesh. Before `begin`.
  void built_in(const BuiltInModel* models, uint8_t count) {
    models_ = models;
    model_count_ = count;
  }
  void extend(DeliveryExtension& delivery) { delivery_ = &delivery; }
  void extend(SenseExtension& senses) { senses_ = &senses; }

  // One byte from the line.
  void receive(uint8_t byte, uint32_t now_ms);

  // Does what is due: runs a model, or says something. Call it when every byte that came has been
  // given to `receive`.
  void poll(uint32_t now_ms);

  // The speed that the line should have from now on, in baud; 0: as it is. Asked once.
  uint32_t new_baud();

  bool joined() const { return link_.open(); }
  // Microseconds of the model that ran last.
  uint32_t last_run_us() const { return last_run_us_; }
  uint32_t tasks_done() const { return tasks_done_; }
  // The shell saw a full receive buffer.
  void count_overrun() { overruns_++; }

  // For extensions.
  bool find(uint8_t slot, tiny::Model& model) const;
  uint8_t model_count() const { return model_count_; }
  // Runs over inputs that lie in the arena, saying that the board is busy if it takes long. The
  // outputs then lie in the arena.
  bool run(const tiny::Model& model);
  uint8_t* arena() {
    remembered_ = false;
    return arena_;
  }
  uint16_t arena_bytes() const { return arena_bytes_; }
  void refuse(uint8_t code, uint16_t handle, uint8_t error);
  // Writes the outputs of a run as an array of byte strings.
  void write_outputs(CborWriter& out, const tiny::Model& model) const;
  // The models have changed: say them anew.
  void report_models();
  uint32_t micros() const { return platform_.micros(); }
  // The host is told that nothing will be said for a while; it ends by itself when what came has been read.
  void be_busy();

 private:
  enum Task : uint8_t { FREE, LOADED, FINISHED };
  static constexpr uint8_t ANSWERS = 3;
  struct Answer {
    uint8_t code;   // RESULT, or REFUSED
    uint8_t about;  // status, or the code of the message
    uint16_t handle;
    uint8_t error;
  };

  void link_events(uint8_t events);
  void end_session();
  void take_segment();
  void message();
  bool offer(CborReader& fields);
  bool cancel(CborReader& fields);
  uint8_t load_inputs(CborReader& fields, const tiny::Model& model);
  void answer(uint8_t code, uint8_t about, uint16_t handle, uint8_t error);
  bool say(CborWriter& out);
  bool say_report(CborWriter& out);
  void say_info(CborWriter& out);
  void say_model(CborWriter& out, uint8_t slot, uint16_t size, const uint8_t* sha256,
                 bool in_flash) const;
  void say_result(CborWriter& out);
  void say_load(CborWriter& out);

  const BuiltInModel* models_ = nullptr;
  DeliveryExtension* delivery_ = nullptr;
  SenseExtension* senses_ = nullptr;
  const NodeConfig* config_ = nullptr;
  Platform platform_;
  uint8_t* arena_ = nullptr;
  uint16_t arena_bytes_ = 0;
  uint32_t now_ms_ = 0;
  uint32_t last_run_us_ = 0;
  uint32_t tasks_done_ = 0;
  uint32_t load_ms_ = 0;
  uint16_t overruns_ = 0;
  uint16_t faults_ = 0;
  uint16_t task_handle_ = 0;
  uint16_t in_bytes_ = 0;
  uint16_t centicycles_ = 0;
  uint8_t model_count_ = 0;
  uint8_t usable_ = 0;        // bit i: built-in model i passed its tests
  uint8_t task_slot_ = 0;
  uint8_t task_error_ = 0;
  uint8_t report_ = 0xFF;     // what is said next: 0 INFO, then sensors, then models; 0xFF nothing
  uint8_t answers_ = 0;
  Task task_ = FREE;
  bool rate_changed_ = false;
  bool busy_ = false;
  bool remembered_ = false;   // the outputs of the task that ended last still lie in the arena
  bool introduced_ = false;   // INFO was said in this session
  bool overflowed_ = false;   // the message that is coming is longer than it said it would be
  Answer answer_[ANSWERS];
  Link link_;
  uint8_t in_[MAILLE_MESSAGE_BYTES];
  uint8_t out_[MAILLE_ANSWER_BYTES];
};

}  // namespace maille
