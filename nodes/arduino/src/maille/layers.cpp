#include "layers.h"

#include <string.h>

#include "kernels.h"
#include "kernels_plain.h"

namespace maille {
namespace tiny {
namespace {

// Fields that every layer with a rounding rule has.
struct Rounding {
  uint8_t zero, low, high;
};

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

// The records of `count` channels, with multipliers and shifts in range.
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

// Weights, of which none is stored as 0.
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

// The address of elements in the arena; fails if they do not all lie in it.
uint8_t *elements(Cursor &cursor, const Place &place, uint32_t offset, uint32_t bytes) {
  if (offset > place.arena_bytes || bytes > place.arena_bytes - offset) {
    cursor.fail();
  }
  return cursor.failed() || place.arena == nullptr ? nullptr : place.arena + offset;
}

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
}

void dense_layer(Cursor &cursor, const Place &place, uint32_t input, uint32_t output) {
  const bool wide = (byte_field(cursor) & FLAG_ACCUMULATOR_24) == 0;
  DenseJob job;
  job.inputs = cursor.size();
  job.outputs = cursor.size();
  const Rounding fields = rounding(cursor);
  job.zero = fields.zero;
  job.low = fields.low;
  job.high = fields.high;
  job.channels = channels(cursor, place, job.outputs);
  job.weights =
    stored_weights(cursor, place, static_cast<uint32_t>(job.inputs) * job.outputs);
  job.x = elements(cursor, place, input, job.inputs);
  job.y = elements(cursor, place, output, job.outputs);
  if (job.y != nullptr && !cursor.failed()) {
    dense(job, place.memory, wide);
  }
}

void max_pool(const ConvolutionJob &job) {
  uint8_t *y = job.y;
  for (uint16_t row = 0; row < job.window.output_height; row++) {
    for (uint16_t column = 0; column < job.window.output_width; column++) {
      const uint16_t channels = job.window.output_channels;
      memset(y, 0, channels);
      visit_window(job.window, job.x, row, column, [&](uint16_t, const uint8_t *x) {
        if (x != nullptr) {
          for (uint16_t channel = 0; channel < channels; channel++) {
            if (x[channel] > y[channel]) {
              y[channel] = x[channel];
            }
          }
        }
      });
      y += channels;
    }
  }
}

void average_pool(const ConvolutionJob &job, Memory memory) {
  const int32_t bias = static_cast<int32_t>(read_long(memory, job.channels));
  const uint16_t multiplier = read_word(memory, job.channels + 4);
  const uint8_t shift = read_byte(memory, job.channels + 6);
  uint8_t *y = job.y;
  for (uint16_t row = 0; row < job.window.output_height; row++) {
    for (uint16_t column = 0; column < job.window.output_width; column++) {
      for (uint16_t channel = 0; channel < job.window.output_channels; channel++) {
        int32_t accumulator = bias;
        visit_window(job.window, job.x, row, column, [&](uint16_t, const uint8_t *x) {
          accumulator += x != nullptr ? x[channel] : job.pad_value;
        });
        *y++ = requantise(accumulator, multiplier, shift, job.zero, job.low, job.high);
      }
    }
  }
}

void windowed_layer(Cursor &cursor, const Place &place, uint8_t kind, uint32_t input,
          uint32_t output) {
  const bool wide = (byte_field(cursor) & FLAG_ACCUMULATOR_24) == 0;
  ConvolutionJob job;
  memset(&job, 0, sizeof job);
  job.window = read_window(cursor);
  const Window &window = job.window;
  const uint16_t inputs =
    element_count(cursor, window.input_height, window.input_width, window.input_channels);
  const uint16_t outputs =
    element_count(cursor, window.output_height, window.output_width, window.output_channels);
  const bool pool = kind == LAYER_MAX_POOL || kind == LAYER_AVERAGE_POOL;
  if (pool && window.input_channels != window.output_channels) {
    cursor.fail();
  }
  if (kind != LAYER_MAX_POOL) {
    job.pad_value = byte_field(cursor);
    const Rounding fields = rounding(cursor);
    job.zero = fields.zero;
    job.low = fields.low;
    job.high = fields.high;
    job.channels = channels(cursor, place, pool ? 1 : window.output_channels);
  }
  if (kind == LAYER_AVERAGE_POOL &&
    static_cast<uint32_t>(window.kernel_height) * window.kernel_width > MAX_POOL_ELEMENTS) {
    cursor.fail();
  }
  if (!pool) {
    const bool deep = kind == LAYER_CONV2D;
    if (!deep && !cursor.failed() && window.output_channels % window.input_channels != 0) {
      cursor.fail();
    }
    // More than 65535 weights of one channel times 65535 channels would leave 32 bits; such a
    // document is far above what any board holds.
    const uint16_t row = element_count(cursor, window.kernel_height, window.kernel_width,
                                           deep ? window.input_channels : 1);
    job.weights =
      stored_weights(cursor, place, static_cast<uint32_t>(row) * window.output_channels);
  }
  job.x = elements(cursor, place, input, inputs);
  job.y = elements(cursor, place, output, outputs);
  if (job.y == nullptr || cursor.failed()) {
    return;
  }
  switch (kind) {
    case LAYER_CONV2D: convolution(job, place.memory, wide); break;
    case LAYER_DEPTHWISE_CONV2D: depthwise_convolution(job, place.memory); break;
    case LAYER_MAX_POOL: max_pool(job); break;
    default: average_pool(job, place.memory); break;
  }
}

void add_layer(Cursor &cursor, const Place &place, uint32_t input, uint32_t output) {
  const uint32_t second_input = cursor.number(MAX_ARENA_BYTES);
  const uint16_t count = cursor.size();
  const uint16_t weight = cursor.size(0);
  const uint16_t second_weight = cursor.size(0);
  const Rounding fields = rounding(cursor);
  const uint8_t *record = channels(cursor, place, 1);
  const uint8_t *x = elements(cursor, place, input, count);
  const uint8_t *second = elements(cursor, place, second_input, count);
  uint8_t *y = elements(cursor, place, output, count);
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

void lookup_layer(Cursor &cursor, const Place &place, uint32_t input, uint32_t output) {
  const uint16_t count = cursor.size();
  const uint8_t *table = cursor.bytes_of(LOOKUP_BYTES);
  const uint8_t *x = elements(cursor, place, input, count);
  uint8_t *y = elements(cursor, place, output, count);
  if (y == nullptr || cursor.failed()) {
    return;
  }
  for (uint16_t i = 0; i < count; i++) {
    y[i] = read_byte(place.memory, table + x[i]);
  }
}

int32_t element(const uint8_t *x, uint8_t type, uint16_t index) {
  if (type == ELEMENT_UINT8) {
    return x[index];
  }
  if (type == ELEMENT_INT16) {
    return static_cast<int16_t>(read_word(Memory::RAM, x + 2 * static_cast<size_t>(index)));
  }
  return static_cast<int32_t>(read_long(Memory::RAM, x + 4 * static_cast<size_t>(index)));
}

void arg_max_layer(Cursor &cursor, const Place &place, uint32_t input, uint32_t output) {
  const uint8_t type = static_cast<uint8_t>(cursor.number(ELEMENT_INT32));
  const uint16_t count = cursor.size();
  if (count > MAX_CLASSES) {
    cursor.fail();
  }
  const uint8_t *x = elements(cursor, place, input, static_cast<uint32_t>(count) << type);
  uint8_t *y = elements(cursor, place, output, 1);
  if (y == nullptr || cursor.failed()) {
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

void softmax_layer(Cursor &cursor, const Place &place, uint32_t input, uint32_t output) {
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
  const uint8_t *x = elements(cursor, place, input, count);
  uint8_t *y = elements(cursor, place, output, count);
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
    y[i] = static_cast<uint8_t>((255 * share(x[i]) + total / 2) / total);
  }
}

// A forest's fields, as addresses.
struct Forest {
  uint8_t features;
  uint16_t outputs, rows, trees;
  uint32_t nodes;
  const uint8_t *bases, *roots, *records, *leaves;
};

// What the walks rely on: every step goes forward within the nodes, features and rows exist.
void check_forest(Cursor &cursor, const Place &place, const Forest &forest) {
  uint32_t end = 0;
  for (uint16_t tree = 0; tree < forest.trees; tree++) {
    const uint16_t root = read_word(place.memory, forest.roots + 2 * static_cast<size_t>(tree));
    if (tree == 0 ? root != 0 : root < end) {
      cursor.fail();
    }
    end = static_cast<uint32_t>(root) + 1;
    if (end > forest.nodes) {
      cursor.fail();
    }
  }
  // Preorder without a stack: a leaf ends the left part of the innermost split that waits. Its
  // jump must lead behind that leaf, which is so exactly if every jump skips one whole subtree.
  uint16_t tree = 0;
  for (uint32_t index = 0; index < forest.nodes && !cursor.failed(); index++) {
    while (tree + 1 < forest.trees &&
               read_word(place.memory, forest.roots + 2 * static_cast<size_t>(tree + 1)) <= index) {
      tree++;
    }
    const uint32_t tree_end =
      tree + 1 < forest.trees
        ? read_word(place.memory, forest.roots + 2 * static_cast<size_t>(tree + 1))
        : forest.nodes;
    const uint8_t *record = forest.records + static_cast<size_t>(index) * TREE_NODE_BYTES;
    const uint8_t feature = read_byte(place.memory, record);
    const uint16_t threshold = read_word(place.memory, record + 1);
    const uint16_t jump = read_word(place.memory, record + 3);
    if (feature == TREE_LEAF) {
      if (jump != 0 || threshold >= forest.rows) {
        cursor.fail();
      }
    } else if (feature >= forest.features || jump < 2 || index + jump >= tree_end) {
      cursor.fail();
    }
  }
}

void forest_layer(Cursor &cursor, const Place &place, uint32_t input, uint32_t output) {
  Forest forest;
  forest.features = static_cast<uint8_t>(cursor.number(MAX_FEATURES));
  forest.outputs = cursor.size();
  if (forest.features == 0 || forest.outputs > MAX_CLASSES) {
    cursor.fail();
  }
  forest.bases = cursor.bytes_of(static_cast<uint32_t>(forest.outputs) * 4);
  size_t root_bytes, node_bytes, leaf_bytes;
  forest.roots = cursor.bytes(root_bytes);
  forest.records = cursor.bytes(node_bytes);
  forest.leaves = cursor.bytes(leaf_bytes);
  const uint16_t row_bytes = static_cast<uint16_t>(2 * forest.outputs);
  if (cursor.failed() || root_bytes == 0 || root_bytes % 2 != 0 ||
    root_bytes > 2 * static_cast<uint32_t>(MAX_TREES) || node_bytes == 0 ||
    node_bytes % TREE_NODE_BYTES != 0 || node_bytes / TREE_NODE_BYTES > MAX_TREE_NODES ||
    leaf_bytes == 0 || leaf_bytes % row_bytes != 0 || leaf_bytes / row_bytes > MAX_SIZE) {
    cursor.fail();
    return;
  }
  forest.trees = static_cast<uint16_t>(root_bytes / 2);
  forest.nodes = static_cast<uint32_t>(node_bytes / TREE_NODE_BYTES);
  forest.rows = static_cast<uint16_t>(leaf_bytes / row_bytes);
  if (place.arena == nullptr) {
    check_forest(cursor, place, forest);
  }
  const uint8_t *x =
    elements(cursor, place, input, static_cast<uint32_t>(forest.features) * 2);
  uint8_t *y = elements(cursor, place, output, static_cast<uint32_t>(forest.outputs) * 4);
  if (y == nullptr || cursor.failed()) {
    return;
  }
  for (uint16_t i = 0; i < row_bytes * 2; i++) {
    y[i] = read_byte(place.memory, forest.bases + i);
  }
  for (uint16_t tree = 0; tree < forest.trees; tree++) {
    uint32_t index = read_word(place.memory, forest.roots + 2 * static_cast<size_t>(tree));
    for (;;) {
      if (index >= forest.nodes) {  // only a model that went bad after the check
        cursor.fail();
        return;
      }
      const uint8_t *record = forest.records + static_cast<size_t>(index) * TREE_NODE_BYTES;
      const uint8_t feature = read_byte(place.memory, record);
      const uint16_t threshold = read_word(place.memory, record + 1);
      if (feature == TREE_LEAF) {
        if (threshold >= forest.rows) {
          cursor.fail();
          return;
        }
        const uint8_t *leaf = forest.leaves + static_cast<size_t>(threshold) * row_bytes;
        for (uint16_t i = 0; i < forest.outputs; i++) {
          uint8_t *sum = y + 4 * static_cast<size_t>(i);
          const uint32_t value =
            read_long(Memory::RAM, sum) +
            static_cast<uint32_t>(static_cast<int32_t>(static_cast<int16_t>(
              read_word(place.memory, leaf + 2 * static_cast<size_t>(i)))));
          sum[0] = static_cast<uint8_t>(value);
          sum[1] = static_cast<uint8_t>(value >> 8);
          sum[2] = static_cast<uint8_t>(value >> 16);
          sum[3] = static_cast<uint8_t>(value >> 24);
        }
        break;
      }
      if (feature >= forest.features) {
        cursor.fail();
        return;
      }
      const int16_t value =
        static_cast<int16_t>(read_word(Memory::RAM, x + 2 * static_cast<size_t>(feature)));
      const uint16_t jump = read_word(place.memory, record + 3);
      index += value <= static_cast<int16_t>(threshold) || jump == 0 ? 1 : jump;
    }
  }
}

}  // namespace

Fault walk_layer(Cursor &cursor, const Place &place) {
  static const uint8_t FIELDS[] = {11, 22, 22, 16, 21, 11, 5, 5, 5, 9};
  const uint32_t fields = cursor.array();
  const uint32_t kind = cursor.number(0xFFFFFFFF);
  if (cursor.failed()) {
    return Fault::MALFORMED;
  }
  if (kind < LAYER_DENSE || kind > LAYER_FOREST) {
    return Fault::KIND;
  }
  if (fields != FIELDS[kind - 1]) {
    return Fault::MALFORMED;
  }
  const uint32_t input = cursor.number(MAX_ARENA_BYTES);
  const uint32_t output = cursor.number(MAX_ARENA_BYTES);
  switch (kind) {
    case LAYER_DENSE: dense_layer(cursor, place, input, output); break;
    case LAYER_ADD: add_layer(cursor, place, input, output); break;
    case LAYER_LOOKUP: lookup_layer(cursor, place, input, output); break;
    case LAYER_ARG_MAX: arg_max_layer(cursor, place, input, output); break;
    case LAYER_SOFTMAX: softmax_layer(cursor, place, input, output); break;
    case LAYER_FOREST: forest_layer(cursor, place, input, output); break;
    default: windowed_layer(cursor, place, static_cast<uint8_t>(kind), input, output); break;
  }
  return cursor.failed() ? Fault::MALFORMED : Fault::NONE;
}

}  // namespace tiny
}  // namespace maille
