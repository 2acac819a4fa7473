// Neighbouring values that a thread loads and stores at once.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/device.cuh"

namespace facekernels {

template <class T, int kCount>
struct alignas(kCount * sizeof(T)) Pack {
  T values[kCount];
};

template <class T, int kCount>
__device__ __forceinline__ Pack<T, kCount> load_pack(const void* base, int64_t offset) {
  return *reinterpret_cast<const Pack<T, kCount>*>(static_cast<const T*>(base) + offset);
}

// By an instruction that says how much it stores: nvcc takes the assignment of a struct apart, and
// then stores value by value.
template <class T, int kCount>
__device__ __forceinline__ void store_pack(void* base, int64_t offset, const Pack<T, kCount>& p) {
  T* const to = static_cast<T*>(base) + offset;
  using Word = std::conditional_t<sizeof p % sizeof(uint4) == 0, uint4, uint2>;
  if constexpr (sizeof p % sizeof(Word) == 0) {
    FK_UNROLL
    for (size_t i = 0; i < sizeof p / sizeof(Word); ++i) {
      Word word;
      memcpy(&word, p.values + i * sizeof(Word) / sizeof(T), sizeof word);
      __stwb(reinterpret_cast<Word*>(to) + i, word);
    }
  } else {
    *reinterpret_cast<Pack<T, kCount>*>(to) = p;
  }
}

// Whether packs of kCount values may start at every multiple of kCount behind `base`, and of
// `stride`.
template <class T, int kCount>
__host__ __device__ inline bool packable(const void* base, int64_t stride) {
  return reinterpret_cast<uintptr_t>(base) % (kCount * sizeof(T)) == 0 && stride % kCount == 0;
}

}  // namespace facekernels
