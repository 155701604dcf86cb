// Made by protocol/make_constants.py from maille_protocol.tiny.codes; do not edit.
#pragma once
#include <stdint.h>

namespace maille {
namespace tiny {

static const char MAGIC[] = "tiny";
constexpr uint8_t FORMAT_VERSION = 1;
constexpr uint32_t MAX_ARENA_BYTES = 1048576;
constexpr uint8_t MAX_LAYERS = 255;
constexpr uint8_t MAX_TENSORS = 8;
constexpr uint16_t MAX_SIZE = 65535;
constexpr uint16_t MAX_POOL_ELEMENTS = 32768;
constexpr uint16_t MAX_CLASSES = 256;
constexpr uint8_t WEIGHT_OFFSET = 128;
constexpr uint8_t CHANNEL_BYTES = 7;
constexpr uint16_t MAX_MULTIPLIER = 32768;
constexpr uint8_t MAX_SHIFT = 31;
constexpr uint16_t LOOKUP_BYTES = 256;
constexpr uint16_t MAX_SOFTMAX_ENTRIES = 256;
constexpr uint8_t TREE_NODE_BYTES = 5;
constexpr uint8_t TREE_LEAF = 255;
constexpr uint8_t MAX_FEATURES = 255;
constexpr uint16_t MAX_TREE_NODES = 65535;
constexpr uint16_t MAX_TREES = 1024;
constexpr uint8_t FLAG_ACCUMULATOR_24 = 1;

constexpr uint8_t ELEMENT_UINT8 = 0;
constexpr uint8_t ELEMENT_INT16 = 1;
constexpr uint8_t ELEMENT_INT32 = 2;

constexpr uint8_t LAYER_DENSE = 1;
constexpr uint8_t LAYER_CONV2D = 2;
constexpr uint8_t LAYER_DEPTHWISE_CONV2D = 3;
constexpr uint8_t LAYER_MAX_POOL = 4;
constexpr uint8_t LAYER_AVERAGE_POOL = 5;
constexpr uint8_t LAYER_ADD = 6;
constexpr uint8_t LAYER_LOOKUP = 7;
constexpr uint8_t LAYER_ARG_MAX = 8;
constexpr uint8_t LAYER_SOFTMAX = 9;
constexpr uint8_t LAYER_FOREST = 10;

}  // namespace tiny
}  // namespace maille
