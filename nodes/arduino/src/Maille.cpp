#include "Maille.h"

#include <avr/eeprom.h>
#include <avr/io.h>
#include <avr/pgmspace.h>

MailleNode Maille;

extern char __heap_start;
extern char* __brkval;
extern char __data_load_end;

namespace {

// What this chip remembers, at the end of its EEPROM.
struct Remembered {
  uint8_t identity[8];
  uint32_t starts;
  uint8_t check;  // of the identity: tells a chip that was never asked before
};

constexpr uint8_t CHECK_SEED = 0x4D;
constexpr uint32_t FIRST_BAUD = 115200;
constexpr uint8_t ALL_RATES = 7;
constexpr uint8_t NOISE_ROUNDS = 32;

Remembered* remembered_place() {
  return reinterpret_cast<Remembered*>(E2END + 1 - sizeof(Remembered));
}

uint8_t check_of(const uint8_t* identity) {
  uint8_t check = CHECK_SEED;
  for (uint8_t i = 0; i < 8; i++) check = static_cast<uint8_t>((check << 1 | check >> 7) ^ identity[i]);
  return check;
}

uint32_t mix(uint32_t value, uint32_t more) {
  value ^= more;
  value *= 0x85EBCA6BUL;
  return value ^ value >> 13;
}

// The lowest bits of an open analog input, and the time that reading it takes.
uint32_t noise(uint32_t value) {
  for (uint8_t i = 0; i < NOISE_ROUNDS; i++) {
    value = mix(value, static_cast<uint32_t>(analogRead(A0 + i % 6)) << 16 | (micros() & 0xFFFF));
  }
  return value;
}

void write_serial(void*, const uint8_t* bytes, uint8_t size) { Serial.write(bytes, size); }

uint32_t read_micros() { return micros(); }

uint8_t reset_cause(uint8_t flags) {
  if (flags & _BV(WDRF)) return maille::RESET_WATCHDOG;
  if (flags & _BV(BORF)) return maille::RESET_BROWNOUT;
  if (flags & _BV(EXTRF)) return maille::RESET_PIN;
  if (flags & _BV(PORF)) return maille::RESET_POWER;
  return maille::RESET_UNKNOWN;  // some boot loaders clear the flags
}

}  // namespace

uint16_t MailleNode::freeRam() {
  const char* end = __brkval != nullptr ? __brkval : &__heap_start;
  return static_cast<uint16_t>(reinterpret_cast<const char*>(SP) - end);
}

uint16_t MailleNode::eepromBytes() { return E2END + 1 - sizeof(Remembered); }

bool MailleNode::model(const maille::BuiltInModel& model) {
  if (modelCount == MAX_MODELS) return false;
  models[modelCount++] = model;
  return true;
}

void MailleNode::start(const char* name, uint8_t* arena, uint16_t bytes) {
  const uint8_t flags = MCUSR;
  MCUSR = 0;

  Remembered kept;
  eeprom_read_block(&kept, remembered_place(), sizeof kept);
  if (kept.check != check_of(kept.identity)) {
    uint32_t random = noise(CHECK_SEED);
    for (uint8_t i = 0; i < sizeof kept.identity; i++) {
      random = mix(random, i + micros());
      kept.identity[i] = static_cast<uint8_t>(random >> 11);
    }
    kept.check = check_of(kept.identity);
    kept.starts = 0;
  }
  kept.starts++;
  eeprom_update_block(&kept, remembered_place(), sizeof kept);

  memcpy(config.identity, kept.identity, sizeof config.identity);
  config.resets = kept.starts;
  config.name = name;
#if defined(__AVR_ATmega2560__)
  config.mcu = "atmega2560";
#elif defined(__AVR_ATmega328P__)
  config.mcu = "atmega328p";
#else
  config.mcu = "avr";
#endif
  config.clock_hz = F_CPU;
  config.flash_bytes = static_cast<uint32_t>(FLASHEND) + 1;
  config.flash_free = config.flash_bytes - pgm_get_far_address(__data_load_end);
  config.ram_bytes = RAMEND + 1 - RAMSTART;

  // Distinct for each start of each chip, whatever the noise is worth.
  uint32_t boot = noise(kept.starts);
  for (uint8_t i = 0; i < sizeof kept.identity; i++) boot = mix(boot, kept.identity[i]);
  maille::LinkConfig link;
  link.boot = boot != 0 ? boot : 1;
  link.max_message = MAILLE_MESSAGE_BYTES;
  link.window = SERIAL_RX_BUFFER_SIZE - 1 < 255 ? SERIAL_RX_BUFFER_SIZE - 1 : 255;
  memcpy(link.schema, maille::BOARD_SCHEMA, sizeof link.schema);
  link.rates = ALL_RATES;
  link.cause = reset_cause(flags);

  Serial.begin(FIRST_BAUD);
  node.built_in(models, modelCount);
  const maille::Platform platform = {write_serial, read_micros, freeRam};
  node.begin(config, platform, link, arena, bytes, millis());
}

void MailleNode::loop() {
  if (Serial.available() >= SERIAL_RX_BUFFER_SIZE - 1) node.count_overrun();
  while (Serial.available() > 0) node.receive(static_cast<uint8_t>(Serial.read()), millis());
  node.poll(millis());
  const uint32_t baud = node.new_baud();
  if (baud != 0) {
    Serial.flush();
    Serial.begin(baud);
  }
}

bool mailleAnalog(uint8_t pin, uint16_t, float& value) {
  value = static_cast<float>(analogRead(pin)) * (1.0F / 1023.0F);
  return true;
}

bool mailleAnalogEveryMillisecond(uint8_t pin, uint16_t index, float& value) {
  static uint32_t due_us;
  if (index == 0) due_us = micros();
  while (static_cast<int32_t>(micros() - due_us) < 0) {
  }
  due_us += 1000;
  return mailleAnalog(pin, index, value);
}

bool mailleDigital(uint8_t pin, uint16_t, float& value) {
  value = digitalRead(pin) == HIGH ? 1.0F : 0.0F;
  return true;
}
