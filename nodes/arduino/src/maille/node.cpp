#include "node.h"

#include "measure.h"

#include <string.h>

namespace maille {

namespace {

constexpr uint8_t SLOTS = 1;
constexpr uint16_t LOAD_MS = 1000;
// Longer runs are announced: a board that says nothing for 100 ms counts as gone.
constexpr uint32_t SILENT_RUN_US = 60000;
constexpr uint8_t NOTHING_TO_REPORT = 0xFF;
constexpr uint8_t MAX_BUILT_IN = 8;
const char SOFTWARE[] = "maille 0.1.0";

}  // namespace

void Node::begin(const NodeConfig& config, const Platform& platform, const LinkConfig& link,
                 uint8_t* arena, uint16_t arena_bytes, uint32_t now_ms) {
  config_ = &config;
  platform_ = platform;
  arena_ = arena;
  arena_bytes_ = arena_bytes;
  now_ms_ = load_ms_ = now_ms;
  if (model_count_ > MAX_BUILT_IN) model_count_ = MAX_BUILT_IN;
  for (uint8_t i = 0; i < model_count_; i++) {
    const tiny::Model model(Memory::FLASH, models_[i].document, models_[i].size,
                            *models_[i].layers);
    if (model.check(arena_bytes_) == tiny::Fault::NONE &&
        model.self_test(arena_, arena_bytes_) == tiny::Fault::NONE) {
      usable_ |= static_cast<uint8_t>(1 << i);
    }
  }
  centicycles_ = measured_centicycles(platform_.micros, config_->clock_hz, arena_, arena_bytes_);
  link_.begin(link, platform.write, nullptr, static_cast<uint16_t>(now_ms));
}

void Node::receive(uint8_t byte, uint32_t now_ms) {
  now_ms_ = now_ms;
  link_events(link_.receive(byte, static_cast<uint16_t>(now_ms)));
}

void Node::link_events(uint8_t events) {
  if (events & (LINK_CLOSED | LINK_OPENED)) end_session();
  if (events & LINK_OPENED) introduced_ = false;
  if (events & LINK_SEGMENT) take_segment();
  if (events & LINK_RATE) rate_changed_ = true;
}

uint32_t Node::new_baud() {
  if (!rate_changed_) return 0;
  rate_changed_ = false;
  switch (link_.rate()) {  // a table would take RAM
    case 1: return 250000;
    case 2: return 500000;
    case 3: return 1000000;
    default: return 115200;
  }
}

// Neither tasks nor senses outlive a session; the host orders them again.
void Node::end_session() {
  task_ = FREE;
  remembered_ = false;
  answers_ = 0;
  report_ = NOTHING_TO_REPORT;
  in_bytes_ = 0;
  if (delivery_ != nullptr) delivery_->session_ended();
  if (senses_ != nullptr) senses_->session_ended();
}

void Node::take_segment() {
  if (link_.segment_first()) {
    in_bytes_ = 0;
    overflowed_ = false;
  }
  const uint8_t size = link_.segment_bytes();
  if (size > sizeof in_ - in_bytes_) {
    overflowed_ = true;  // the link keeps to max_message; this keeps memory safe whatever it does
  } else {
    memcpy(in_ + in_bytes_, link_.segment(), size);
    in_bytes_ += size;
  }
  if (link_.segment_last() && !overflowed_) message();
}

void Node::message() {
  CborReader fields(in_, in_bytes_);
  const uint16_t count = fields.array();
  const uint32_t code = fields.number(0xFF);
  bool good = false;
  if (!fields.failed()) {
    switch (code) {
      case OFFER:
        good = count == 5 && offer(fields);
        break;
      case CANCEL:
        good = count == 2 && cancel(fields);
        break;
      case DEPLOY:
      case CHUNK:
      case EVICT:
        good = count == (code == DEPLOY ? 5 : code == CHUNK ? 4 : 2) && delivery_ != nullptr &&
               delivery_->message(*this, static_cast<uint8_t>(code), fields, now_ms_);
        break;
      case SENSE:
      case STOP:
        good = count == (code == SENSE ? 6 : 2) && senses_ != nullptr &&
               senses_->message(*this, static_cast<uint8_t>(code), fields, now_ms_);
        break;
      case CALIBRATE:
      case REPORT:
        good = count == 1 && fields.done();
        if (good) {
          if (code == CALIBRATE && task_ == FREE) {
            centicycles_ = measured_centicycles(platform_.micros, config_->clock_hz, arena_, arena_bytes_);
          }
          report_ = 0;
        }
        break;
      default:
        break;
    }
  }
  if (!good) {
    faults_++;
    refuse(static_cast<uint8_t>(code), 0, ERROR_INPUT_MALFORMED);
  }
}

bool Node::find(uint8_t slot, tiny::Model& model) const {
  if (slot < model_count_) {
    model = tiny::Model(Memory::FLASH, models_[slot].document, models_[slot].size,
                        *models_[slot].layers);
    return usable_ >> slot & 1;
  }
  uint8_t sha256[32];
  return slot == model_count_ && delivery_ != nullptr && delivery_->held(model, sha256);
}

bool Node::offer(CborReader& fields) {
  const uint16_t handle = static_cast<uint16_t>(fields.number(0xFFFF));
  const uint8_t slot = static_cast<uint8_t>(fields.number(0xFF));
  fields.number();  // the time left: this board begins at once or not at all
  if (fields.failed()) return false;
  if (task_ != FREE) {
    if (handle != task_handle_) answer(RESULT, RESULT_REFUSED, handle, ERROR_BUSY);
    return true;
  }
  if (remembered_ && handle == task_handle_) {  // a repetition: answered from memory
    task_ = FINISHED;
    return true;
  }
  remembered_ = false;
  tiny::Model model;
  uint8_t error = ERROR_MODEL_NOT_HELD;
  if (find(slot, model)) error = load_inputs(fields, model);
  if (error != ERROR_NONE) {
    answer(RESULT, RESULT_REFUSED, handle, error);
    return error != ERROR_INPUT_MALFORMED;
  }
  task_handle_ = handle;
  task_slot_ = slot;
  task_error_ = ERROR_NONE;
  task_ = LOADED;
  return true;
}

uint8_t Node::load_inputs(CborReader& fields, const tiny::Model& model) {
  tiny::Tensor tensor;
  const uint16_t count = fields.array();
  for (uint8_t i = 0; i < count; i++) {
    uint16_t size;
    const uint8_t* bytes = fields.bytes(&size);
    if (fields.failed()) return ERROR_INPUT_MALFORMED;
    if (!model.input(i, tensor) || size != tensor.size() ||
        tensor.offset + size > arena_bytes_) {
      return ERROR_INPUT_SHAPE;
    }
    memcpy(arena_ + tensor.offset, bytes, size);
  }
  if (count == 0 || model.input(static_cast<uint8_t>(count), tensor)) return ERROR_INPUT_SHAPE;
  return fields.done() ? ERROR_NONE : ERROR_INPUT_MALFORMED;
}

bool Node::cancel(CborReader& fields) {
  const uint16_t handle = static_cast<uint16_t>(fields.number(0xFFFF));
  if (!fields.done()) return false;
  if (task_ == LOADED && handle == task_handle_) {
    task_ = FREE;
    answer(RESULT, RESULT_CANCELLED, handle, ERROR_NONE);
  }
  return true;
}

void Node::answer(uint8_t code, uint8_t about, uint16_t handle, uint8_t error) {
  // Never more than the host can have under way; were it otherwise, the latest is dropped.
  if (answers_ == ANSWERS) return;
  answer_[answers_].code = code;
  answer_[answers_].about = about;
  answer_[answers_].handle = handle;
  answer_[answers_++].error = error;
}

void Node::refuse(uint8_t code, uint16_t handle, uint8_t error) {
  answer(REFUSED, code, handle, error);
}

void Node::be_busy() {
  if (busy_) return;
  busy_ = true;
  link_.set_busy(true, static_cast<uint16_t>(now_ms_));
}

bool Node::run(const tiny::Model& model) {
  if (last_run_us_ > SILENT_RUN_US) be_busy();
  remembered_ = false;
  const uint32_t start_us = platform_.micros();
  const bool good = model.run(arena_, arena_bytes_);
  last_run_us_ = platform_.micros() - start_us;
  return good;
}

void Node::poll(uint32_t now_ms) {
  now_ms_ = now_ms;
  if (busy_) {
    busy_ = false;
    link_.set_busy(false, static_cast<uint16_t>(now_ms));
  }
  link_events(link_.poll(static_cast<uint16_t>(now_ms)));
  if (task_ == LOADED) {
    tiny::Model model;
    if (!find(task_slot_, model) || !run(model)) task_error_ = ERROR_MODEL;
    task_ = FINISHED;
    return;  // bytes may have come meanwhile: they are taken in before anything is said
  }
  if (delivery_ != nullptr && task_ == FREE && delivery_->work(*this)) return;
  if (senses_ != nullptr && task_ == FREE && senses_->run(*this, now_ms)) return;
  if (!link_.open() || link_.sending()) return;
  CborWriter out(out_, sizeof out_);
  if (say(out) && !out.failed()) {
    link_.send(out_, out.size(), static_cast<uint16_t>(now_ms));
  }
}

bool Node::say(CborWriter& out) {
  if (!introduced_) {  // the first message of a session
    introduced_ = true;
    report_ = 0;
    return say_report(out);
  }
  if (task_ == FINISHED) {
    say_result(out);
    task_ = FREE;
    return true;
  }
  if (answers_ != 0) {
    const Answer first = answer_[0];
    answers_--;
    memmove(answer_, answer_ + 1, answers_ * sizeof *answer_);
    if (first.code == RESULT) {
      out.array(6);
      out.small(RESULT);
      out.number(first.handle);
      out.small(first.about);
      out.small(first.error);
      out.small(0);
      out.array(0);
    } else {
      out.array(4);
      out.small(REFUSED);
      out.small(first.about);
      out.number(first.handle);
      out.small(first.error);
    }
    return true;
  }
  if (delivery_ != nullptr && delivery_->say(*this, out, now_ms_)) return true;
  if (report_ != NOTHING_TO_REPORT && say_report(out)) return true;
  if (senses_ != nullptr && senses_->say(*this, out, now_ms_)) return true;
  if (now_ms_ - load_ms_ >= LOAD_MS) {
    load_ms_ = now_ms_;
    say_load(out);
    return true;
  }
  return false;
}

void Node::report_models() { report_ = 0; }

// INFO, then sensors, then models, one message each; false when all is said.
bool Node::say_report(CborWriter& out) {
  if (report_ == 0) {
    say_info(out);
    report_ = 1;
    return true;
  }
  const uint8_t sensors = senses_ != nullptr ? senses_->sensor_count() : 0;
  uint8_t index = static_cast<uint8_t>(report_ - 1);
  if (index < sensors) {
    report_++;
    senses_->describe(index, out);
    return true;
  }
  for (index = static_cast<uint8_t>(index - sensors); index <= model_count_; index++) {
    report_ = static_cast<uint8_t>(index + sensors + 2);
    if (index < model_count_) {
      if (usable_ >> index & 1) {
        say_model(out, index, models_[index].size, models_[index].sha256, true);
        return true;
      }
    } else {
      tiny::Model model;
      uint8_t sha256[32];
      if (delivery_ != nullptr && delivery_->held(model, sha256)) {
        say_model(out, index, static_cast<uint16_t>(model.size()), sha256, false);
        return true;
      }
    }
  }
  report_ = NOTHING_TO_REPORT;
  return false;
}

void Node::say_info(CborWriter& out) {
  uint8_t models = 0;
  for (uint8_t i = 0; i < model_count_; i++) models += usable_ >> i & 1;
  tiny::Model model;
  uint8_t sha256[32];
  if (delivery_ != nullptr && delivery_->held(model, sha256)) models++;
  const NodeConfig& config = *config_;
  out.array(20);
  out.small(INFO);
  out.small(NODE_ARDUINO);
  out.text(config.name);
  out.text(SOFTWARE);
  out.text(config.mcu);
  out.number(config.clock_hz);
  out.number(config.flash_bytes);
  out.number(config.flash_free);
  out.number(config.ram_bytes);
  out.number(platform_.free_ram());
  out.small(SLOTS);
  out.small(tiny::FORMAT_VERSION);
  out.small(delivery_ != nullptr ? delivery_->max_models() : 0);
  out.number(delivery_ != nullptr ? delivery_->max_model_bytes() : 0);
  out.number(arena_bytes_);
  out.bytes(config.identity, sizeof config.identity);
  out.number(config.resets);
  out.array(centicycles_ != 0 ? 1 : 0);
  if (centicycles_ != 0) {
    out.array(2);
    out.small(KERNEL_DENSE);
    out.number(centicycles_);
  }
  out.small(senses_ != nullptr ? senses_->sensor_count() : 0);
  out.small(models);
}

void Node::say_model(CborWriter& out, uint8_t slot, uint16_t size, const uint8_t* sha256,
                     bool in_flash) const {
  out.array(5);
  out.small(MODEL);
  out.small(slot);
  out.number(size);
  uint8_t* digest = out.bytes(32);
  for (uint8_t i = 0; digest != nullptr && i < 32; i++) {
    digest[i] = read_byte(in_flash ? Memory::FLASH : Memory::RAM, sha256 + i);
  }
  out.boolean(!in_flash);
}

void Node::write_outputs(CborWriter& out, const tiny::Model& model) const {
  tiny::Tensor tensor;
  const uint8_t count = model.output_count();
  out.array(count);
  for (uint8_t i = 0; i < count && model.output(i, tensor); i++) {
    out.bytes(arena_ + tensor.offset, static_cast<uint16_t>(tensor.size()));
  }
}

void Node::say_result(CborWriter& out) {
  tiny::Model model;
  if (task_error_ == ERROR_NONE && !find(task_slot_, model)) task_error_ = ERROR_MODEL_NOT_HELD;
  const CborWriter empty = out;
  for (;;) {
    const bool done = task_error_ == ERROR_NONE;
    out.array(6);
    out.small(RESULT);
    out.number(task_handle_);
    out.small(done ? RESULT_DONE : RESULT_FAILED);
    out.small(task_error_);
    out.number(last_run_us_);
    if (done) {
      write_outputs(out, model);
    } else {
      out.array(0);
    }
    if (!out.failed()) break;
    out = empty;
    task_error_ = ERROR_OUTPUT_TOO_LARGE;
  }
  remembered_ = task_error_ == ERROR_NONE;
  if (remembered_) tasks_done_++;
}

void Node::say_load(CborWriter& out) {
  out.array(8);
  out.small(LOAD);
  out.number(now_ms_);
  out.small(0);
  out.small(0);
  out.number(last_run_us_);
  out.number(platform_.free_ram());
  out.number(link_.bad());
  out.number(overruns_);
}

}  // namespace maille
