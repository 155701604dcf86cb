#ifdef __AVR__
#pragma GCC optimize("O2")  // speed counts here
#endif
#include "layer_fields.h"
#include "requantise.h"

namespace maille {
namespace tiny {

void run_add(Cursor& cursor, const Place& place) {
  const uint32_t second_input = cursor.number(MAX_ARENA_BYTES);
  const uint16_t count = cursor.size();
  const uint16_t weight = cursor.size(0);
  const uint16_t second_weight = cursor.size(0);
  const Rounding fields = rounding(cursor);
  const uint8_t *record = channels(cursor, place, 1);
  const uint8_t *x = elements(cursor, place, place.input, count);
  const uint8_t *second = elements(cursor, place, second_input, count);
  uint8_t *y = elements(cursor, place, place.output, count);
  if (y == nullptr || cursor.failed()) {
    return;
  }
  const int32_t bias = static_cast<int32_t>(read_long(place.memory, record));
  const uint16_t multiplier = read_word(place.memory, record + 4);
  const uint8_t shift = read_byte(place.memory, record + 6);
  for (uint16_t i = 0; i < count; i++) {
    // Unsigned arithmetic: modulo 2^32, as the format allows
    const uint32_t accumulator = static_cast<uint32_t>(bias) +
                                     static_cast<uint32_t>(weight) * x[i] +
                                     static_cast<uint32_t>(second_weight) * second[i];
    y[i] = requantise(static_cast<int32_t>(accumulator), multiplier, shift, fields.zero,
              fields.low, fields.high);
  }
}

void run_lookup(Cursor& cursor, const Place& place) {
  const uint16_t count = cursor.size();
  const uint8_t *table = cursor.bytes_of(LOOKUP_BYTES);
  const uint8_t *x = elements(cursor, place, place.input, count);
  uint8_t *y = elements(cursor, place, place.output, count);
  if (y == nullptr || cursor.failed()) {
    return;
  }
  for (uint16_t i = 0; i < count; i++) {
    y[i] = read_byte(place.memory, table + x[i]);
  }
}

namespace {

int32_t element(const uint8_t *x, uint8_t type, uint16_t index) {
  if (type == ELEMENT_UINT8) {
    return x[index];
  }
  if (type == ELEMENT_INT16) {
    return static_cast<int16_t>(read_word(Memory::RAM, x + 2 * static_cast<size_t>(index)));
  }
  return static_cast<int32_t>(read_long(Memory::RAM, x + 4 * static_cast<size_t>(index)));
}

// A quotient of at most 255; four times as fast on an AVR as a division of 32 bits.
uint8_t divide(uint32_t dividend, uint32_t divisor) {
  uint8_t quotient = 0;
  uint32_t part = divisor << 7;
  for (uint8_t bit = 0x80; bit != 0; bit >>= 1) {
    if (dividend >= part) {
      dividend -= part;
      quotient |= bit;
    }
    part >>= 1;
  }
  return quotient;
}

}  // namespace

void run_arg_max(Cursor& cursor, const Place& place) {
  const uint8_t type = static_cast<uint8_t>(cursor.number(ELEMENT_INT32));
  const uint16_t count = cursor.size();
  if (count > MAX_CLASSES) {
    cursor.fail();
  }
  const uint8_t *x = elements(cursor, place, place.input, static_cast<uint32_t>(count) << type);
  uint8_t *y = elements(cursor, place, place.output, 1);
  if (y == nullptr || cursor.failed()) {
    return;
  }
  if (type == ELEMENT_UINT8) {
    const uint8_t* best = x;
    for (const uint8_t* at = x; at != x + count; at++) {
      if (*at > *best) best = at;
    }
    *y = static_cast<uint8_t>(best - x);
    return;
  }
  uint16_t best = 0;
  int32_t largest = element(x, type, 0);
  for (uint16_t i = 1; i < count; i++) {
    const int32_t value = element(x, type, i);
    if (value > largest) {
      largest = value;
      best = i;
    }
  }
  *y = static_cast<uint8_t>(best);
}

void run_softmax(Cursor& cursor, const Place& place) {
  const uint16_t count = cursor.size();
  size_t table_bytes;
  const uint8_t *table = cursor.bytes(table_bytes);
  if (count > MAX_CLASSES || table_bytes % 2 != 0 || table_bytes < 2 ||
    table_bytes > 2 * MAX_SOFTMAX_ENTRIES ||
    (!cursor.failed() && read_word(place.memory, table) == 0)) {
    cursor.fail();
  }
  if (!cursor.failed() && place.arena == nullptr) {
    for (uint16_t i = 2; i < table_bytes; i += 2) {
      if (read_word(place.memory, table + i) > read_word(place.memory, table + i - 2)) {
        cursor.fail();
      }
    }
  }
  const uint8_t *x = elements(cursor, place, place.input, count);
  uint8_t *y = elements(cursor, place, place.output, count);
  if (y == nullptr || cursor.failed()) {
    return;
  }
  uint8_t largest = 0;
  for (uint16_t i = 0; i < count; i++) {
    largest = x[i] > largest ? x[i] : largest;
  }
  const auto share = [&](uint8_t value) -> uint32_t {
    const uint16_t at = static_cast<uint16_t>(2 * (largest - value));
    return at < table_bytes ? read_word(place.memory, table + at) : 0;
  };
  uint32_t total = 0;
  for (uint16_t i = 0; i < count; i++) {
    total += share(x[i]);
  }
  if (total == 0) {  // only a table that went bad after the check
    cursor.fail();
    return;
  }
  for (uint16_t i = 0; i < count; i++) {
    const uint32_t part = share(x[i]);
    y[i] = part == 0 ? 0 : divide(255 * part + total / 2, total);
  }
}

}  // namespace tiny
}  // namespace maille
