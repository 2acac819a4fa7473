// Element types of CUDA kernels: widening to and narrowing from the accumulator type.
#pragma once

#include <cstdint>
#include <stdexcept>

#include "core/device.cuh"
#include "core/dispatch.h"

namespace facekernels {

__device__ __forceinline__ float widen(float x) {
  return x;
}
__device__ __forceinline__ double widen(double x) {
  return x;
}
__device__ __forceinline__ float widen(__half x) {
  return __half2float(x);
}
__device__ __forceinline__ float widen(__nv_bfloat16 x) {
  return __bfloat162float(x);
}

template <class T>
__device__ __forceinline__ T narrow_to(Accumulate<T> x) {
  if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(x);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(x);
  } else {
    return x;
  }
}

// A one-dimensional grid of `threads`-sized blocks for `items` threads. CUDA allows 2^31 - 1
// blocks.
inline dim3 blocks_for(int64_t items, int threads) {
  const int64_t blocks = (items + threads - 1) / threads;
  if (blocks > 0x7fffffff) throw std::invalid_argument("the tensor is too large for one launch");
  return dim3(static_cast<unsigned>(blocks));
}

}  // namespace facekernels
