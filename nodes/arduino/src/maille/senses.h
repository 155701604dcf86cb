// Models that run on the board's own sensors: SENSE, STOP, READING, SENSOR (SERIAL.md section 9, rule 5).
#pragma once
#include "node.h"

namespace maille {

// One sensor. A reading has `values` numbers, or as many as the model wants if that is 0.
struct Sensor {
  const char* name;        // at most 31 characters
  uint16_t values;
  // The number of that index within a reading; the function sees to the time between two of them, and a
  // whole reading takes less than 80 ms. False: the sensor gave nothing.
  bool (*read)(uint8_t argument, uint16_t index, float& value);
  uint8_t argument;        // for `read`, such as a pin
};

class Senses : public SenseExtension {
 public:
  static constexpr uint8_t MAX_SENSES = 2;

  void begin(const Sensor* sensors, uint8_t count) {
    sensors_ = sensors;
    sensor_count_ = count;
  }

  uint8_t sensor_count() const override { return sensor_count_; }
  void describe(uint8_t sensor, CborWriter& out) const override;
  bool message(Node& node, uint8_t code, CborReader& fields, uint32_t now_ms) override;
  bool run(Node& node, uint32_t now_ms) override;
  bool say(Node& node, CborWriter& out, uint32_t now_ms) override;
  void session_ended() override;

 private:
  static constexpr uint8_t READING_BYTES = 72;
  struct Sense {
    bool active;
    bool failed;            // the last run failed, and that was said
    uint8_t model, sensor, mode;
    uint16_t number;
    uint32_t interval_ms, due_ms, counter;
    int32_t position;       // that was said last; -1: none
  };

  bool start(Node& node, CborReader& fields, uint32_t now_ms);
  uint8_t fits(const Node& node, uint8_t model, uint8_t sensor) const;
  uint8_t read(Node& node, const Sense& sense, const tiny::Model& model) const;
  void keep(Node& node, Sense& sense, const tiny::Model& model, uint8_t error, uint32_t now_ms);

  const Sensor* sensors_ = nullptr;
  uint8_t sensor_count_ = 0;
  uint8_t kept_bytes_ = 0;  // of a reading that waits to be said
  uint32_t kept_ms_ = 0;
  Sense senses_[MAX_SENSES] = {};
  uint8_t kept_[READING_BYTES];
};

}  // namespace maille
