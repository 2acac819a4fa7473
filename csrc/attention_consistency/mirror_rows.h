// Rows read backwards, a vector at a time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "core/simd.h"
#include "core/simd_run.h"

namespace facekernels::attention_consistency::FK_CPU_VARIANT {

using namespace facekernels::FK_CPU_VARIANT;

// Lane j of the result is lane order[j] of v.
template <class A>
inline Vec<A> permute(Vec<A> v, Vec<IndexOf<A>> order) {
#if defined(__AVX512F__)
  const auto lanes = std::bit_cast<__m512i>(order);
  if constexpr (sizeof(A) == 8) {
    return std::bit_cast<Vec<A>>(_mm512_permutexvar_pd(lanes, std::bit_cast<__m512d>(v)));
  } else {
    return std::bit_cast<Vec<A>>(_mm512_permutexvar_ps(lanes, std::bit_cast<__m512>(v)));
  }
#else
#if defined(__AVX2__)
  if constexpr (sizeof(A) == 4) {
    return std::bit_cast<Vec<A>>(
        _mm256_permutevar8x32_ps(std::bit_cast<__m256>(v), std::bit_cast<__m256i>(order)));
  }
#endif
  Vec<A> result;
  for (int j = 0; j < kLanes<A>; ++j) result[j] = v[order[j]];
  return result;
#endif
}

// put(i, values, full, count) with the values of places i, i + 1, ... of `rows` rows one after the
// other, each reversed; see for_each_vector. Short rows go several to a vector. Places are visited
// in ascending order, some of them twice: the lanes behind the last whole row of a vector hold
// anything, and the next visit has their values.
template <class T, class Put>
void mirror_rows(const T* in, int64_t rows, int64_t width, Put put) {
  using A = Accumulate<T>;
  using I = IndexOf<A>;
  constexpr int64_t kWidth = kLanes<A>;
  const int64_t group = std::min(width, kWidth);
  const int64_t step = kWidth / group * group;
  Vec<I> order = iota<I>();
  for (int64_t j = 0; j < step; ++j) {
    order[j] = static_cast<I>(j / group * group + group - 1 - j % group);
  }
  if (width > kWidth) {
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t begin = row * width;
      for (int64_t j = 0; j < width; j += kWidth) {
        const int64_t at = std::min(j, width - kWidth);
        put(begin + at, permute<A>(load(in + begin + width - kWidth - at), order), std::true_type{},
            kWidth);
      }
    }
    return;
  }
  const int64_t total = rows * width;
  int64_t i = 0;
  for (; i + kWidth <= total; i += step) {
    put(i, permute<A>(load(in + i), order), std::true_type{}, kWidth);
  }
  for (; i < total; i += step) {
    const int64_t count = std::min(step, total - i);
    const std::false_type part{};
    put(i, permute<A>(load_lanes(in + i, part, count), order), part, count);
  }
}

}  // namespace facekernels::attention_consistency::FK_CPU_VARIANT
