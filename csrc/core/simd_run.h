// Runs of any length walked in vectors, of which the last may be partial.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "core/simd.h"

namespace facekernels::FK_CPU_VARIANT {

// f(j, full, count) for the vectors of a run: `full` is std::true_type for all but a partial last
// one, of which only `count` lanes exist.
template <class A, class F>
void for_each_vector(int64_t count, F f) {
  int64_t j = 0;
  for (; j + kLanes<A> <= count; j += kLanes<A>) f(j, std::true_type{}, kLanes<A>);
  if (j < count) f(j, std::false_type{}, count - j);
}

// Lanes past the end are 0.
template <class T, bool kFull>
inline Vec<Accumulate<T>> load_lanes(const T* p, std::bool_constant<kFull>, int64_t count) {
  if constexpr (kFull) {
    return load(p);
  } else {
    return load_partial(p, count, Accumulate<T>(0));
  }
}

template <class T, bool kFull>
inline void store_lanes(T* p, Vec<Accumulate<T>> v, std::bool_constant<kFull>, int64_t count) {
  if constexpr (kFull) {
    store(p, v);
  } else {
    T values[kLanes<Accumulate<T>>];
    store(values, v);
    std::copy_n(values, count, p);
  }
}

}  // namespace facekernels::FK_CPU_VARIANT
