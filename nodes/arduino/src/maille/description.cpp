// The part of a model that is for people and clients; a board reads it only for its own sensors.
#include "cursor.h"
#include "model.h"

namespace maille {
namespace tiny {

namespace {

constexpr uint8_t FIELDS_BEFORE = 12;   // of the document, before the description
constexpr uint8_t TENSOR_FIELDS_BEFORE = 3;  // name, shape, order
constexpr int8_t LARGEST_EXPONENT = 127;

// mantissa * 2^exponent
float take_real(Cursor& cursor) {
  float value = static_cast<float>(cursor.integer());
  int32_t exponent = cursor.integer();
  if (exponent > LARGEST_EXPONENT || exponent < -LARGEST_EXPONENT) cursor.fail();
  for (; exponent > 0 && !cursor.failed(); exponent--) value *= 2.0F;
  for (; exponent < 0 && !cursor.failed(); exponent++) value *= 0.5F;
  return value;
}

}  // namespace

bool Model::input_quantisation(uint8_t input, uint16_t element, Quantisation& found,
                               bool& one_for_all) const {
  Cursor document(memory_, start_, size_);
  document.array();
  for (uint8_t i = 0; i < FIELDS_BEFORE; i++) document.skip();
  size_t size;
  const uint8_t* start = document.bytes(size);
  if (document.failed()) return false;

  Cursor cursor(memory_, start, size);
  cursor.array();
  cursor.skip();  // the name
  if (input >= cursor.array()) return false;
  for (uint8_t i = 0; i < input; i++) cursor.skip();
  cursor.array();
  for (uint8_t i = 0; i < TENSOR_FIELDS_BEFORE; i++) cursor.skip();
  const uint32_t count = cursor.array();
  if (count == 0) return false;
  one_for_all = count == 1;
  for (uint16_t i = 0; !one_for_all && i < element; i++) cursor.skip();
  cursor.array();
  found.step = take_real(cursor);
  found.offset = take_real(cursor);
  return !cursor.failed() && found.step > 0.0F;
}

}  // namespace tiny
}  // namespace maille
