// How the images of a batch lie in memory.
#pragma once

#include <cstdint>

#include "core/tensor_view.h"

namespace facekernels {

// Whether each image of t [B, C, H, W] is one run of memory, with channels_last as [H, W, C].
inline bool is_dense_image(const TensorView& t, bool channels_last) {
  const int order[3]{channels_last ? 1 : 3, channels_last ? 3 : 2, channels_last ? 2 : 1};
  int64_t expected = 1;
  for (const int dim : order) {
    if (t.size(dim) != 1 && t.stride(dim) != expected) return false;
    expected *= t.size(dim);
  }
  return true;
}

}  // namespace facekernels
