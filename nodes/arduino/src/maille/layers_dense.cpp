#include "layer_fields.h"

namespace maille {
namespace tiny {

void run_dense(Cursor& cursor, const Place& place) {
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
  job.x = elements(cursor, place, place.input, job.inputs);
  job.y = elements(cursor, place, place.output, job.outputs);
  if (job.y != nullptr && !cursor.failed()) {
    dense(job, place.memory, wide);
  }
}

}  // namespace tiny
}  // namespace maille
