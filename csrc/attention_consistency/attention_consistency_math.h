// What the CPU and CUDA kernels share.
#pragma once

#include <cstdint>

#include "attention_consistency/attention_consistency.h"
#include "core/host_device.h"

namespace facekernels::attention_consistency {

// The position mirrored in its row. There are fewer than 2^31, and division of 64 bits is slow.
FK_HOST_DEVICE inline int64_t mirrored(int64_t position, int64_t width) {
  const uint32_t column = static_cast<uint32_t>(position) % static_cast<uint32_t>(width);
  return position - column + (width - 1 - column);
}

// s[b,k] = (d_loss w_k + d_class) dl/dr / r: what the residuals of a sample and class are
// multiplied by.
template <class A>
FK_HOST_DEVICE inline A coefficient(const BackwardArgs& args, int64_t b, int64_t k) {
  const Shape& shape = args.shape;
  if (args.d_loss == nullptr && args.d_class == nullptr) return A(1);
  const int64_t row = args.per_sample ? b : 0;
  A sum = A(0);
  if (args.d_loss != nullptr) {
    const A weight =
        args.class_weights != nullptr ? static_cast<const A*>(args.class_weights)[k] : A(1);
    sum = static_cast<const A*>(args.d_loss)[row] * weight;
  }
  if (args.d_class != nullptr) {
    sum += static_cast<const A*>(args.d_class)[row * shape.classes + k];
  }
  const int64_t averaged = shape.positions() * (args.per_sample ? 1 : shape.batch);
  return sum * (A(2) / static_cast<A>(averaged));
}

}  // namespace facekernels::attention_consistency
