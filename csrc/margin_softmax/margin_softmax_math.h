// Norms and labels, shared by the CPU and CUDA kernels.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/host_device.h"

namespace facekernels::margin_softmax {

constexpr double kSmallestNorm = 1e-12;  // as in torch.nn.functional.normalize

template <class A>
FK_HOST_DEVICE inline A inverse_norm(A sum_of_squares) {
  const A norm = sqrt(sum_of_squares);
  const A smallest = static_cast<A>(kSmallestNorm);
  return A(1) / (norm < smallest ? smallest : norm);  // a NaN stays
}

// Whether the norm itself has a gradient.
template <class A>
FK_HOST_DEVICE inline bool norm_counts(A inverse) {
  return !(inverse >= A(1) / static_cast<A>(kSmallestNorm));
}

// The target cosine of a row whose label no class matches.
template <class A>
FK_HOST_DEVICE inline A no_target(int64_t label) {
  return label == -1 ? A(0) : static_cast<A>(NAN);
}

FK_HOST_DEVICE inline bool is_class(int64_t label, int64_t classes) {
  return label >= 0 && label < classes;
}

}  // namespace facekernels::margin_softmax
