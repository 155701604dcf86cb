#include "layers.h"

namespace maille {
namespace tiny {

const Layers ALL_LAYERS = {{run_dense, run_convolution, run_depthwise, run_max_pool, run_average_pool,
                            run_add, run_lookup, run_arg_max, run_softmax, run_forest}};

const Layers SMALL_LAYERS = {{run_dense, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr,
                              run_arg_max, run_softmax, run_forest}};

}  // namespace tiny
}  // namespace maille
