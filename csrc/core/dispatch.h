// From run-time dtype to C++ type.
#pragma once

#include <stdexcept>
#include <string>
#include <type_traits>

#include "core/check.h"
#include "core/tensor_view.h"

namespace facekernels {

// Statistics and sums are kept in float for every dtype but double.
template <class T>
using Accumulate = std::conditional_t<std::is_same_v<T, double>, double, float>;

inline DType accumulate_dtype(DType dtype) {
  return dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
}

// Calls `f.template operator()<T>()` with the element type of `dtype`. `Half` and `BFloat16` are
// the back end's own 16-bit types (core/half.h on the CPU, the toolkit's in kernels).
template <class Half, class BFloat16, class F>
void dispatch_floating(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kFloat32: return f.template operator()<float>();
    case DType::kFloat64: return f.template operator()<double>();
    case DType::kFloat16: return f.template operator()<Half>();
    case DType::kBFloat16: return f.template operator()<BFloat16>();
    default:
      throw std::invalid_argument(std::string("expected a floating-point dtype, got ") +
                                  name_of(dtype));
  }
}

}  // namespace facekernels
