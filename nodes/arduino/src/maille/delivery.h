// Models that come over the link: DEPLOY, WANT, CHUNK, EVICT (SERIAL.md section 9, rule 4).
#pragma once
#include "node.h"
#include "store.h"

namespace maille {

class Delivery : public DeliveryExtension {
 public:
  // A model kept from before is checked and tested here, in the arena that the node will use.
  void begin(Memory memory, uint8_t* start, uint16_t size, const tiny::Layers& layers,
             uint8_t* arena, uint16_t arena_bytes);

  uint8_t max_models() const override { return 1; }
  uint16_t max_model_bytes() const override { return store_.max_model_bytes(); }
  bool held(tiny::Model& model, uint8_t sha256[32]) const override;
  bool message(Node& node, uint8_t code, CborReader& fields, uint32_t now_ms) override;
  bool work(Node& node) override;
  bool say(Node& node, CborWriter& out, uint32_t now_ms) override;
  void session_ended() override;

 private:
  bool deploy(Node& node, CborReader& fields, uint32_t now_ms);
  bool chunk(CborReader& fields, uint32_t now_ms);
  void end(uint8_t state, uint8_t error, uint32_t run_us);

  ModelStore store_;
  const tiny::Layers* layers_ = nullptr;
  uint32_t crc32_ = 0;
  uint32_t run_us_ = 0;
  uint32_t asked_ms_ = 0;
  uint16_t offset_ = 0;
  uint8_t state_ = 0;      // a ModelState to say; 0: none
  uint8_t error_ = 0;
  uint8_t slot_ = 0;       // that the message named
  bool receiving_ = false;
  bool ask_ = false;
  bool complete_ = false;
};

}  // namespace maille
