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

#include "maille/node.h"

class MailleNode {
 public:
  // Offers a model that is part of the firmware; at most 4, before `begin`. False: too many.
  bool model(const maille::BuiltInModel& model);

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
