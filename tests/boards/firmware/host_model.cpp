// The interpreter as a shared library of this machine, for ctypes.
#include "maille/model.h"

using maille::Memory;
using maille::tiny::Fault;
using maille::tiny::Model;
using maille::tiny::Tensor;

extern "C" {

int maille_check(const uint8_t *document, size_t size, uint32_t arena_bytes) {
  return static_cast<int>(Model(Memory::RAM, document, size, maille::tiny::ALL_LAYERS).check(arena_bytes));
}

int maille_self_test(const uint8_t *document, size_t size, uint8_t *arena, uint32_t arena_bytes) {
  return static_cast<int>(Model(Memory::RAM, document, size, maille::tiny::ALL_LAYERS).self_test(arena, arena_bytes));
}

// Runs once: inputs one after the other, outputs likewise. Returns the bytes of outputs, or -1.
long maille_run(const uint8_t *document, size_t size, uint8_t *arena, uint32_t arena_bytes,
        const uint8_t *inputs, uint8_t *outputs) {
  const Model model(Memory::RAM, document, size, maille::tiny::ALL_LAYERS);
  Tensor tensor;
  for (uint8_t i = 0; model.input(i, tensor); i++) {
    for (uint32_t j = 0; j < tensor.size(); j++) {
      arena[tensor.offset + j] = *inputs++;
    }
  }
  if (!model.run(arena, arena_bytes)) {
    return -1;
  }
  long count = 0;
  for (uint8_t i = 0; model.output(i, tensor); i++) {
    for (uint32_t j = 0; j < tensor.size(); j++) {
      outputs[count++] = arena[tensor.offset + j];
    }
  }
  return count;
}
}
