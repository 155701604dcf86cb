#include "layer_fields.h"

namespace maille {
namespace tiny {

void run_convolution(Cursor& cursor, const Place& place) {
  WindowedLayer layer;
  take_windowed(cursor, place, Windowed::CONVOLUTION, layer);
  if (layer.job.y != nullptr) convolution(layer.job, place.memory, layer.wide);
}

void run_depthwise(Cursor& cursor, const Place& place) {
  WindowedLayer layer;
  take_windowed(cursor, place, Windowed::DEPTHWISE, layer);
  if (layer.job.y != nullptr) depthwise_convolution(layer.job, place.memory, layer.wide);
}

}  // namespace tiny
}  // namespace maille
