#include "delivery.h"

#include <string.h>

namespace maille {

namespace {

constexpr uint16_t REPEAT_MS = 1000;
// What a CHUNK has beside its data, at most
constexpr uint8_t CHUNK_OVERHEAD_BYTES = 12;
// Larger ones would keep an EEPROM busy for longer than the host waits for a sign of life.
constexpr uint16_t MAX_CHUNK_BYTES = 24;
constexpr uint16_t MAX_CHUNK_RAM_BYTES = 224;

uint8_t error_of(tiny::Fault fault) {
  switch (fault) {
    case tiny::Fault::NONE: return ERROR_NONE;
    case tiny::Fault::VERSION:
    case tiny::Fault::KIND: return ERROR_UNSUPPORTED_FORMAT;
    case tiny::Fault::ARENA: return ERROR_MODEL_TOO_LARGE;
    case tiny::Fault::SELF_TEST: return ERROR_SELF_TEST_FAILED;
    default: return ERROR_MODEL_INVALID;
  }
}

}  // namespace

void Delivery::begin(Memory memory, uint8_t* start, uint16_t size, const tiny::Layers& layers,
                     uint8_t* arena, uint16_t arena_bytes) {
  layers_ = &layers;
  store_.begin(memory, start, size);
  tiny::Model model;
  uint8_t sha256[32];
  if (held(model, sha256) && (model.check(arena_bytes) != tiny::Fault::NONE ||
                              model.self_test(arena, arena_bytes) != tiny::Fault::NONE)) {
    store_.evict();
  }
}

bool Delivery::held(tiny::Model& model, uint8_t sha256[32]) const {
  if (!store_.ready()) return false;
  model = tiny::Model(store_.memory(), store_.ready_start(), store_.ready_size(), *layers_);
  store_.ready_sha256(sha256);
  return true;
}

void Delivery::session_ended() {
  state_ = 0;
  ask_ = false;
  // What has come stays: a DEPLOY of the same model goes on from there.
}

void Delivery::end(uint8_t state, uint8_t error, uint32_t run_us) {
  state_ = state;
  error_ = error;
  run_us_ = run_us;
  ask_ = false;
  if (state == MODEL_FAILED) {
    receiving_ = false;
    store_.drop();
  }
}

bool Delivery::message(Node& node, uint8_t code, CborReader& fields, uint32_t now_ms) {
  if (code == DEPLOY) return deploy(node, fields, now_ms);
  if (code == CHUNK) return chunk(fields, now_ms);
  slot_ = static_cast<uint8_t>(fields.number(0xFF));
  if (!fields.done()) return false;
  if (slot_ == node.model_count() && store_.ready()) {
    store_.evict();
    node.report_models();
  }
  end(MODEL_GONE, ERROR_NONE, 0);
  return true;
}

bool Delivery::deploy(Node& node, CborReader& fields, uint32_t now_ms) {
  const uint8_t slot = static_cast<uint8_t>(fields.number(0xFF));
  const uint32_t size = fields.number();
  const uint32_t crc32 = fields.number();
  uint16_t digest_bytes;
  const uint8_t* digest = fields.bytes(&digest_bytes);
  if (!fields.done() || digest_bytes != 32) return false;
  slot_ = slot;
  if (slot != node.model_count()) {
    end(MODEL_FAILED, ERROR_NO_SPACE, 0);
  } else if (store_.ready_is(digest)) {
    end(MODEL_READY, ERROR_NONE, 0);
  } else if (size > store_.max_model_bytes() || size == 0) {
    end(MODEL_FAILED, ERROR_MODEL_TOO_LARGE, 0);
  } else {
    if (!receiving_ || !store_.coming_is(digest) || store_.coming_size() != size) {
      const bool had = store_.ready();
      store_.prepare(static_cast<uint16_t>(size), digest);
      if (had && !store_.ready()) node.report_models();
      offset_ = 0;
      receiving_ = true;
    }
    crc32_ = crc32;
    state_ = 0;
    ask_ = true;
    asked_ms_ = now_ms - REPEAT_MS;
  }
  return true;
}

bool Delivery::chunk(CborReader& fields, uint32_t now_ms) {
  const uint8_t slot = static_cast<uint8_t>(fields.number(0xFF));
  const uint32_t offset = fields.number();
  uint16_t size;
  const uint8_t* data = fields.bytes(&size);
  if (!fields.done()) return false;
  // One that nobody asked for, or that came twice, is dropped.
  if (!receiving_ || slot != slot_ || offset != offset_ || size == 0 ||
      size > store_.coming_size() - offset_) {
    return true;
  }
  store_.write(offset_, data, size);
  offset_ += size;
  if (offset_ == store_.coming_size()) {
    receiving_ = false;
    complete_ = true;
  } else {
    asked_ms_ = now_ms - REPEAT_MS;
  }
  return true;
}

bool Delivery::work(Node& node) {
  if (!complete_) return false;
  complete_ = false;
  node.be_busy();
  if (store_.coming_crc32() != crc32_) {
    end(MODEL_FAILED, ERROR_ARTEFACT_CORRUPT, 0);
    return true;
  }
  const tiny::Model model(store_.memory(), store_.coming_start(), store_.coming_size(), *layers_);
  tiny::Fault fault = model.check(node.arena_bytes());
  const uint32_t start_us = node.micros();
  uint16_t tests = 1;
  if (fault == tiny::Fault::NONE) fault = model.self_test(node.arena(), node.arena_bytes(), &tests);
  const uint32_t run_us = (node.micros() - start_us) / tests;
  if (fault != tiny::Fault::NONE) {
    end(MODEL_FAILED, error_of(fault), 0);
    return true;
  }
  store_.accept();
  end(MODEL_READY, ERROR_NONE, run_us);
  node.report_models();
  return true;
}

bool Delivery::say(Node& node, CborWriter& out, uint32_t now_ms) {
  (void)node;
  if (state_ != 0) {
    out.array(5);
    out.number(MODEL_STATE);
    out.number(slot_);
    out.number(state_);
    out.number(error_);
    out.number(run_us_);
    state_ = 0;
    return true;
  }
  if (!ask_ || !receiving_ || now_ms - asked_ms_ < REPEAT_MS) return false;
  asked_ms_ = now_ms;
  uint16_t length = store_.memory() == Memory::EEPROM ? MAX_CHUNK_BYTES : MAX_CHUNK_RAM_BYTES;
  if (length > MAILLE_MESSAGE_BYTES - CHUNK_OVERHEAD_BYTES) {
    length = MAILLE_MESSAGE_BYTES - CHUNK_OVERHEAD_BYTES;
  }
  const uint16_t left = store_.coming_size() - offset_;
  out.array(4);
  out.number(WANT);
  out.number(slot_);
  out.number(offset_);
  out.number(left < length ? left : length);
  return true;
}

}  // namespace maille
