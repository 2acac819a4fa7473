// From the dtypes of a call to the types of a kernel. A call is in double precision throughout or
// in float, where gradients and outputs may have 16 bits; images may be bytes in both.
#pragma once

#include <cstdint>

#include "core/dispatch.h"
#include "core/tensor_view.h"

namespace facekernels::sga {

// f<A, T>(): A of delta, T of the gradients or the output.
template <class Half, class BFloat16, class F>
void dispatch_types(DType dtype, DType other, F&& f) {
  if (dtype == DType::kFloat64) return f.template operator()<double, double>();
  switch (other) {
    case DType::kFloat16: return f.template operator()<float, Half>();
    case DType::kBFloat16: return f.template operator()<float, BFloat16>();
    default: return f.template operator()<float, float>();
  }
}

// f<A, T, I>() with I of the images.
template <class Half, class BFloat16, class F>
void dispatch_types(DType dtype, DType other, DType images, F&& f) {
  dispatch_types<Half, BFloat16>(dtype, other, [&]<class A, class T>() {
    if (images == DType::kUInt8) return f.template operator()<A, T, uint8_t>();
    return f.template operator()<A, T, A>();
  });
}

}  // namespace facekernels::sga
