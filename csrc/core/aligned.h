// Buffers of the CPU kernels that start on a cache line, so that no vector crosses one.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace facekernels::FK_CPU_VARIANT {

struct Free {
  void operator()(void* p) const { std::free(p); }
};
template <class T>
using Aligned = std::unique_ptr<T[], Free>;

template <class T>
Aligned<T> allocate_aligned(int64_t count) {
  const size_t bytes = (std::max<int64_t>(count, 1) * sizeof(T) + 63) / 64 * 64;
  void* const p = std::aligned_alloc(64, bytes);
  if (!p) throw std::bad_alloc();
  return Aligned<T>(static_cast<T*>(p));
}

}  // namespace facekernels::FK_CPU_VARIANT
