#include "layer_fields.h"

#include <string.h>

namespace maille {
namespace tiny {

namespace {

// count * count of at most 65535, or a failure.
uint16_t multiplied(Cursor &cursor, uint16_t first, uint16_t second) {
  const uint32_t product = static_cast<uint32_t>(first) * second;
  if (product > MAX_SIZE) {
    cursor.fail();
    return 0;
  }
  return static_cast<uint16_t>(product);
}

void check_direction(Cursor &cursor, uint16_t input, uint16_t output, uint16_t kernel,
                     uint16_t stride, uint16_t pad) {
  if (pad >= kernel || output == 0) {
    cursor.fail();
    return;
  }
  const uint32_t last = static_cast<uint32_t>(output - 1) * stride;
  if (last >= static_cast<uint32_t>(input) + pad) {
    cursor.fail();
  }
}

Window read_window(Cursor &cursor) {
  Window window;
  uint16_t *field = &window.input_height;
  for (uint8_t i = 0; i < 12; i++) {
    field[i] = cursor.size(i < 10 ? 1 : 0);
  }
  check_direction(cursor, window.input_height, window.output_height, window.kernel_height,
          window.stride_height, window.pad_top);
  check_direction(cursor, window.input_width, window.output_width, window.kernel_width,
          window.stride_width, window.pad_left);
  return window;
}

uint16_t element_count(Cursor &cursor, uint16_t height, uint16_t width, uint16_t channels) {
  return multiplied(cursor, multiplied(cursor, height, width), channels);
}}  // namespace

uint8_t byte_field(Cursor &cursor) { return static_cast<uint8_t>(cursor.number(255)); }

Rounding rounding(Cursor &cursor) {
  Rounding fields;
  fields.zero = byte_field(cursor);
  fields.low = byte_field(cursor);
  fields.high = byte_field(cursor);
  if (fields.low > fields.high) {
    cursor.fail();
  }
  return fields;
}

const uint8_t *channels(Cursor &cursor, const Place &place, uint16_t count) {
  const uint8_t *start = cursor.bytes_of(static_cast<uint32_t>(count) * CHANNEL_BYTES);
  if (start == nullptr || place.arena != nullptr) {
    return start;  // `check` has seen them; a bad shift harms neither memory nor time
  }
  const uint8_t *record = start;
  for (uint16_t i = 0; i < count; i++, record += CHANNEL_BYTES) {
    if (read_word(place.memory, record + 4) > MAX_MULTIPLIER ||
      read_byte(place.memory, record + 6) > MAX_SHIFT) {
      cursor.fail();
    }
  }
  return start;
}

const uint8_t *stored_weights(Cursor &cursor, const Place &place, uint32_t count) {
  const uint8_t *start = cursor.bytes_of(count);
  if (start == nullptr || place.arena != nullptr) {
    return start;
  }
  for (uint32_t i = 0; i < count; i++) {
    if (read_byte(place.memory, start + i) == 0) {
      cursor.fail();
      break;
    }
  }
  return start;
}

uint8_t *elements(Cursor &cursor, const Place &place, uint32_t offset, uint32_t bytes) {
  if (offset > place.arena_bytes || bytes > place.arena_bytes - offset) {
    cursor.fail();
  }
  return cursor.failed() || place.arena == nullptr ? nullptr : place.arena + offset;
}

void take_windowed(Cursor& cursor, const Place& place, Windowed kind, WindowedLayer& layer) {
  ConvolutionJob& job = layer.job;
  memset(&job, 0, sizeof job);
  layer.wide = (byte_field(cursor) & FLAG_ACCUMULATOR_24) == 0;
  job.window = read_window(cursor);
  const Window& window = job.window;
  const uint16_t inputs =
      element_count(cursor, window.input_height, window.input_width, window.input_channels);
  const uint16_t outputs =
      element_count(cursor, window.output_height, window.output_width, window.output_channels);
  const bool pool = kind == Windowed::MAX_POOL || kind == Windowed::AVERAGE_POOL;
  if (pool && window.input_channels != window.output_channels) cursor.fail();
  if (kind != Windowed::MAX_POOL) {
    job.pad_value = byte_field(cursor);
    const Rounding fields = rounding(cursor);
    job.zero = fields.zero;
    job.low = fields.low;
    job.high = fields.high;
    job.channels = channels(cursor, place, pool ? 1 : window.output_channels);
  }
  if (!pool) {
    const bool deep = kind == Windowed::CONVOLUTION;
    if (!deep && !cursor.failed() && window.output_channels % window.input_channels != 0) {
      cursor.fail();
    }
    // More than 65535 weights of one channel are far above what any board holds.
    const uint16_t row = element_count(cursor, window.kernel_height, window.kernel_width,
                                       deep ? window.input_channels : 1);
    job.weights =
        stored_weights(cursor, place, static_cast<uint32_t>(row) * window.output_channels);
  }
  job.x = elements(cursor, place, place.input, inputs);
  job.y = elements(cursor, place, place.output, outputs);
  if (cursor.failed()) job.y = nullptr;
}

}  // namespace tiny
}  // namespace maille
