// Makes an Arduino a node of a Maille mesh. The board speaks with `maille gateway` over Serial.
//
//   #include <Maille.h>
//   #include "digits.h"                     // made by `maille flash` or `maille models header`
//
//   uint8_t arena[digits_arena_bytes];
//
//   void setup() {
//     Maille.model(digits);
//     Maille.begin("my first node", arena);
//   }
//
//   void loop() { Maille.loop(); }
//
// Nothing else may use Serial. `loop` has to run at least every 50 ms: no long `delay`.
#ifndef MAILLE_H
#define MAILLE_H

#include <Arduino.h>

#include "maille/delivery.h"
#include "maille/node.h"
#include "maille/senses.h"

// Sensors of the board itself, for `maille::Sensor`: an analog pin as a fraction of its range, the same
// with a millisecond from one value to the next, and a digital pin as 0 or 1.
bool mailleAnalog(uint8_t pin, uint16_t index, float& value);
bool mailleAnalogEveryMillisecond(uint8_t pin, uint16_t index, float& value);
bool mailleDigital(uint8_t pin, uint16_t index, float& value);

class MailleNode {
 public:
  // Offers a model that is part of the firmware; at most 4, before `begin`. False: too many.
  bool model(const maille::BuiltInModel& model);

  // Takes models from the mesh and keeps them in the EEPROM, at most one at a time; before `begin`.
  // `layers` says what they may consist of: the firmware carries the code of these.
  template <size_t bytes>
  void keepModels(maille::Delivery& delivery, uint8_t (&arena)[bytes],
                  const maille::tiny::Layers& layers = maille::tiny::ALL_LAYERS) {
    delivery.begin(maille::Memory::EEPROM, nullptr, eepromBytes(), layers, arena, bytes);
    node.extend(delivery);
  }

  // The same in a piece of RAM: larger and faster, gone after a reset.
  template <size_t room, size_t bytes>
  void keepModelsInRam(maille::Delivery& delivery, uint8_t (&memory)[room],
                       uint8_t (&arena)[bytes],
                       const maille::tiny::Layers& layers = maille::tiny::ALL_LAYERS) {
    delivery.begin(maille::Memory::RAM, memory, room, layers, arena, bytes);
    node.extend(delivery);
  }

  // Offers the board's own sensors as inputs of models; before `begin`.
  template <size_t count>
  void sensors(maille::Senses& senses, const maille::Sensor (&table)[count]) {
    senses.begin(table, count);
    node.extend(senses);
  }

  // Starts the node. `name` (at most 24 characters) is for people; models compute in `arena`.
  template <typename Byte, size_t bytes>
  void begin(const char* name, Byte (&arena)[bytes]) {
    static_assert(sizeof(Byte) == 1, "the arena is an array of bytes");
    start(name, arena, bytes);
  }

  // Takes in what came, runs what is due, answers.
  void loop();

  // Whether a gateway speaks with the board.
  bool joined() const { return node.joined(); }
  // Tasks that ended well since the start.
  uint32_t tasksDone() const { return node.tasks_done(); }
  // How long the last model took, in microseconds.
  uint32_t lastRunMicros() const { return node.last_run_us(); }
  // Bytes between the end of the data and the stack.
  static uint16_t freeRam();
  // What of the EEPROM is for models; the node remembers its identity behind it.
  static uint16_t eepromBytes();

  // The parts beneath, for extensions.
  maille::Node node;

 private:
  static constexpr uint8_t MAX_MODELS = 4;

  void start(const char* name, uint8_t* arena, uint16_t bytes);

  maille::NodeConfig config;
  maille::BuiltInModel models[MAX_MODELS];
  uint8_t modelCount = 0;
};

extern MailleNode Maille;

#endif
