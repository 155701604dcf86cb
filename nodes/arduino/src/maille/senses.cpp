#include "senses.h"

#include <math.h>
#include <string.h>

namespace maille {

namespace {

// A reading is said within one turn of the loop; what it was kept for is its age.
constexpr uint8_t READING_FIELDS = 7;

int32_t element(const uint8_t* at, uint8_t type) {
  if (type == tiny::ELEMENT_UINT8) return *at;
  if (type == tiny::ELEMENT_INT16) return static_cast<int16_t>(read_word(Memory::RAM, at));
  return static_cast<int32_t>(read_long(Memory::RAM, at));
}

// Where the largest element is, the first of equals; the value itself where there is only one.
int32_t largest(const uint8_t* at, const tiny::Tensor& tensor) {
  int32_t best = element(at, tensor.element_type);
  if (tensor.count == 1) return best;
  uint16_t position = 0;
  for (uint16_t i = 1; i < tensor.count; i++) {
    const int32_t value =
        element(at + (static_cast<size_t>(i) << tensor.element_type), tensor.element_type);
    if (value > best) {
      best = value;
      position = i;
    }
  }
  return position;
}

void put_quantised(uint8_t* at, uint8_t type, float value, const tiny::Quantisation& scale) {
  const float lowest = type == tiny::ELEMENT_UINT8 ? 0.0F : -32768.0F;
  const float highest = type == tiny::ELEMENT_UINT8 ? 255.0F : 32767.0F;
  float steps = (value - scale.offset) / scale.step;
  if (!(steps > lowest)) steps = lowest;
  if (steps > highest) steps = highest;
  const int32_t whole = lround(steps);
  at[0] = static_cast<uint8_t>(whole);
  if (type != tiny::ELEMENT_UINT8) at[1] = static_cast<uint8_t>(whole >> 8);
}

}  // namespace

void Senses::describe(uint8_t sensor, CborWriter& out) const {
  out.array(4);
  out.number(SENSOR);
  out.number(sensor);
  out.text(sensors_[sensor].name);
  out.number(sensors_[sensor].values);
}

void Senses::session_ended() {
  memset(senses_, 0, sizeof senses_);
  kept_bytes_ = 0;
}

bool Senses::message(Node& node, uint8_t code, CborReader& fields, uint32_t now_ms) {
  if (code == SENSE) return start(node, fields, now_ms);
  const uint16_t number = static_cast<uint16_t>(fields.number(0xFFFF));
  if (!fields.done()) return false;
  for (Sense& sense : senses_) {
    if (sense.active && sense.number == number) sense.active = false;
  }
  return true;
}

uint8_t Senses::fits(const Node& node, uint8_t slot, uint8_t sensor) const {
  tiny::Model model;
  tiny::Tensor tensor, second;
  if (sensor >= sensor_count_) return ERROR_NO_SUCH_SENSOR;
  if (!node.find(slot, model) || !model.input(0, tensor)) return ERROR_MODEL_NOT_HELD;
  const uint16_t values = sensors_[sensor].values;
  if (model.input(1, second) || (values != 0 && values != tensor.count) ||
      tensor.element_type == tiny::ELEMENT_INT32) {
    return ERROR_INPUT_SHAPE;
  }
  return ERROR_NONE;
}

bool Senses::start(Node& node, CborReader& fields, uint32_t now_ms) {
  const uint16_t number = static_cast<uint16_t>(fields.number(0xFFFF));
  const uint8_t model = static_cast<uint8_t>(fields.number(0xFF));
  const uint8_t sensor = static_cast<uint8_t>(fields.number(0xFF));
  const uint32_t interval_ms = fields.number();
  const uint8_t mode = static_cast<uint8_t>(fields.number(SENSE_CHANGES));
  if (!fields.done()) return false;
  Sense* place = nullptr;
  for (Sense& sense : senses_) {
    if (sense.active && sense.number == number) {
      place = &sense;
      break;
    }
    if (!sense.active) place = &sense;
  }
  uint8_t error = fits(node, model, sensor);
  if (error == ERROR_NONE && place == nullptr) error = ERROR_NO_SPACE;
  if (error != ERROR_NONE) {
    node.refuse(SENSE, number, error);
    return true;
  }
  if (!place->active || place->number != number) {
    memset(place, 0, sizeof *place);
    place->position = -1;
    place->due_ms = now_ms;
  }
  place->active = true;
  place->number = number;
  place->model = model;
  place->sensor = sensor;
  place->mode = mode;
  place->interval_ms = interval_ms;
  return true;
}

// Fills the model's input in the arena.
uint8_t Senses::read(Node& node, const Sense& sense, const tiny::Model& model) const {
  tiny::Tensor tensor;
  tiny::Quantisation scale;
  const Sensor& sensor = sensors_[sense.sensor];
  if (!model.input(0, tensor)) return ERROR_MODEL_NOT_HELD;
  uint8_t* at = node.arena() + tensor.offset;
  tiny::QuantisationWalk scales(model, 0);
  for (uint16_t i = 0; i < tensor.count; i++) {
    if (!scales.next(scale)) return ERROR_MODEL;
    float value;
    if (!sensor.read(sensor.argument, i, value)) return ERROR_SENSOR;
    put_quantised(at, tensor.element_type, value, scale);
    at += 1 << tensor.element_type;
  }
  return ERROR_NONE;
}

bool Senses::run(Node& node, uint32_t now_ms) {
  if (kept_bytes_ != 0) return false;
  for (Sense& sense : senses_) {
    if (!sense.active || static_cast<int32_t>(now_ms - sense.due_ms) < 0) continue;
    sense.due_ms += sense.interval_ms;
    if (static_cast<int32_t>(now_ms - sense.due_ms) >= 0) sense.due_ms = now_ms + sense.interval_ms;
    sense.counter++;
    tiny::Model model;
    uint8_t error = ERROR_MODEL_NOT_HELD;
    if (node.find(sense.model, model)) error = read(node, sense, model);
    if (error == ERROR_NONE && !node.run(model)) error = ERROR_MODEL;
    keep(node, sense, model, error, now_ms);
    return true;
  }
  return false;
}

void Senses::keep(Node& node, Sense& sense, const tiny::Model& model, uint8_t error,
                  uint32_t now_ms) {
  if (error != ERROR_NONE) {
    if (sense.failed) return;
  } else if (sense.mode == SENSE_CHANGES) {
    tiny::Tensor first;
    const int32_t position =
        model.output(0, first) ? largest(node.arena() + first.offset, first) : -1;
    if (!sense.failed && position == sense.position) return;
    sense.position = position;
  }
  sense.failed = error != ERROR_NONE;
  for (;;) {
    CborWriter out(kept_, sizeof kept_);
    out.array(READING_FIELDS);
    out.number(READING);
    out.number(sense.number);
    out.number(sense.counter);
    out.number(0);
    out.number(error);
    out.number(node.last_run_us());
    if (error == ERROR_NONE) {
      node.write_outputs(out, model);
    } else {
      out.array(0);
    }
    kept_bytes_ = static_cast<uint8_t>(out.size());
    kept_ms_ = now_ms;
    if (!out.failed()) return;
    error = ERROR_OUTPUT_TOO_LARGE;
  }
}

bool Senses::say(Node& node, CborWriter& out, uint32_t now_ms) {
  (void)node;
  if (kept_bytes_ == 0) return false;
  // The age stands behind the counter: it is written anew, the rest is copied.
  CborReader kept(kept_, kept_bytes_);
  kept.array(READING_FIELDS);
  out.array(READING_FIELDS);
  for (uint8_t i = 0; i < 3; i++) out.number(kept.number());
  kept.number();
  out.number(now_ms - kept_ms_);
  const uint8_t* rest = kept.position();
  out.raw(rest, static_cast<uint16_t>(kept_ + kept_bytes_ - rest));
  kept_bytes_ = 0;
  return true;
}

}  // namespace maille
