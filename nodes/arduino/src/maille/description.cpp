// The part of a model that is for people and clients; a board reads it only for its own sensors.
#include <math.h>

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
  const float mantissa = static_cast<float>(cursor.integer());
  const int32_t exponent = cursor.integer();
  if (exponent > LARGEST_EXPONENT || exponent < -LARGEST_EXPONENT) cursor.fail();
  return cursor.failed() ? 0.0F : static_cast<float>(ldexp(mantissa, static_cast<int>(exponent)));
}

// The content of the description.
Cursor description(const Model& model) {
  Cursor document(model.memory(), model.start(), model.size());
  document.array();
  for (uint8_t i = 0; i < FIELDS_BEFORE; i++) document.skip();
  size_t size;
  const uint8_t* start = document.bytes(size);
  return Cursor(model.memory(), start, size);
}

}  // namespace

QuantisationWalk::QuantisationWalk(const Model& model, uint8_t input)
    : cursor_(description(model)), left_(0), one_for_all_(false), last_{1.0F, 0.0F} {
  cursor_.array();
  cursor_.skip();  // the name
  if (input >= cursor_.array()) cursor_.fail();
  for (uint8_t i = 0; i < input; i++) cursor_.skip();
  cursor_.array();
  for (uint8_t i = 0; i < TENSOR_FIELDS_BEFORE; i++) cursor_.skip();
  left_ = cursor_.array();
  one_for_all_ = left_ == 1;
}

bool QuantisationWalk::next(Quantisation& found) {
  if (left_ != 0) {
    left_--;
    cursor_.array();
    last_.step = take_real(cursor_);
    last_.offset = take_real(cursor_);
  } else if (!one_for_all_) {
    return false;
  }
  found = last_;
  return !cursor_.failed() && found.step > 0.0F;
}

}  // namespace tiny
}  // namespace maille
