// Fixed-width vectors on the compiler's vector extensions: one source for SSE2, AVX2, AVX-512 and
// NEON. Everything here lives in the namespace of the CPU variant being compiled, so code built for
// a newer instruction set is never merged with code for an older one.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/dispatch.h"
#include "core/half.h"

namespace facekernels::FK_CPU_VARIANT {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif

template <class T>
inline constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <class T, int N>
struct VectorType {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
};
template <class T>
using Vec = typename VectorType<T, kLanes<T>>::type;

// Integers as wide as T: lane indices and comparison results.
template <class T>
using IndexOf = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;

template <class T>
inline Vec<T> splat(T x) {
  return x - Vec<T>{};
}

template <class T>
inline Vec<T> iota() {
  return []<int... I>(std::integer_sequence<int, I...>) {
    return Vec<T>{static_cast<T>(I)...};
  }(std::make_integer_sequence<int, kLanes<T>>{});
}

// kLanes<Accumulate<T>> consecutive elements, widened to the accumulator type.
template <class T>
inline Vec<Accumulate<T>> load(const T* p) {
  using A = Accumulate<T>;
  Vec<A> v;
  if constexpr (std::is_same_v<T, A>) {
    std::memcpy(&v, p, sizeof v);
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    typename VectorType<uint16_t, kLanes<A>>::type bits;
    std::memcpy(&bits, p, sizeof bits);
    const auto words = __builtin_convertvector(bits, typename VectorType<uint32_t, kLanes<A>>::type)
                       << 16;
    std::memcpy(&v, &words, sizeof v);
  } else {
#if defined(__AVX512F__)
    const __m512 wide = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    std::memcpy(&v, &wide, sizeof v);
#elif defined(__F16C__)
    const __m256 wide = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    std::memcpy(&v, &wide, sizeof v);
#else
    for (int i = 0; i < kLanes<A>; ++i) v[i] = static_cast<A>(p[i]);
#endif
  }
  return v;
}

// The first `count` < kLanes elements at p; the other lanes hold `rest`.
template <class T>
inline Vec<Accumulate<T>> load_partial(const T* p, int64_t count, Accumulate<T> rest) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float>) {
    const auto lanes = static_cast<__mmask16>((1u << count) - 1);
    return std::bit_cast<Vec<T>>(_mm512_mask_loadu_ps(_mm512_set1_ps(rest), lanes, p));
  }
#endif
  T padded[kLanes<Accumulate<T>>];
  for (T& value : padded) value = narrow<T>(rest);
  std::memcpy(padded, p, count * sizeof(T));
  return load(padded);
}

template <class T>
inline void store(T* p, Vec<Accumulate<T>> v) {
  using A = Accumulate<T>;
  if constexpr (std::is_same_v<T, A>) {
    std::memcpy(p, &v, sizeof v);
  } else {
    T narrowed[kLanes<A>];
    for (int i = 0; i < kLanes<A>; ++i) narrowed[i] = narrow<T>(v[i]);
    std::memcpy(p, narrowed, sizeof narrowed);
  }
}

#if !defined(__AVX512F__)  // which has comparisons into masks
// Bit j is the truth of lane j of a comparison of V.
template <class V, class Mask>
inline uint64_t lane_bits(Mask mask) {
  constexpr bool kDouble = sizeof(V{}[0]) == 8;
#if defined(__AVX2__)
  return static_cast<uint32_t>(kDouble ? _mm256_movemask_pd(std::bit_cast<__m256d>(mask))
                                       : _mm256_movemask_ps(std::bit_cast<__m256>(mask)));
#elif defined(__SSE2__)
  return static_cast<uint32_t>(kDouble ? _mm_movemask_pd(std::bit_cast<__m128d>(mask))
                                       : _mm_movemask_ps(std::bit_cast<__m128>(mask)));
#else
  uint64_t bits = 0;
  for (int i = 0; i < static_cast<int>(sizeof(V) / sizeof(V{}[0])); ++i) {
    bits |= static_cast<uint64_t>(mask[i] != 0) << i;
  }
  return bits;
#endif
}
#endif

// Bit j tells whether lane j of a and b is equal.
template <class V>
inline uint64_t equal_bits(V a, V b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(a[0]) == 8)
    return _mm512_cmpeq_pd_mask(std::bit_cast<__m512d>(a), std::bit_cast<__m512d>(b));
  else
    return _mm512_cmpeq_ps_mask(std::bit_cast<__m512>(a), std::bit_cast<__m512>(b));
#else
  return lane_bits<V>(a == b);
#endif
}

// Bit j tells whether lane j of a is greater than that of b.
template <class V>
inline uint64_t greater_bits(V a, V b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(a[0]) == 8)
    return _mm512_cmp_pd_mask(std::bit_cast<__m512d>(a), std::bit_cast<__m512d>(b), _CMP_GT_OQ);
  else
    return _mm512_cmp_ps_mask(std::bit_cast<__m512>(a), std::bit_cast<__m512>(b), _CMP_GT_OQ);
#else
  return lane_bits<V>(a > b);
#endif
}

// Lane j of the result comes from `a` where bit `kBit` of j is clear, from `b` where it is set;
// `Swap` reads the partner lane j ^ kBit instead.
template <int kBit, bool kSwap, class V>
inline V interleave(V a, V b) {
  constexpr int kCount = sizeof(V) / sizeof(a[0]);
  return [&]<int... J>(std::integer_sequence<int, J...>) {
    return __builtin_shufflevector(a, b, ((kSwap ? J ^ kBit : J) + ((J & kBit) ? kCount : 0))...);
  }(std::make_integer_sequence<int, kCount>{});
}

// Reduces as many vectors as a vector has lanes: lane j of the result is the reduction of rows[j].
// A tree of two shuffles a step, so a row costs about two shuffles instead of 2 log2(lanes).
template <class V, class Combine, int kBit = sizeof(V) / sizeof(V{}[0]) / 2>
inline V reduce_rows(V* rows, Combine combine) {
  if constexpr (kBit == 0) {
    return rows[0];
  } else {
    for (int i = 0; i < kBit; ++i) {
      rows[i] = combine(interleave<kBit, false>(rows[i], rows[i + kBit]),
                        interleave<kBit, true>(rows[i], rows[i + kBit]));
    }
    return reduce_rows<V, Combine, kBit / 2>(rows, combine);
  }
}

// Reduction over the lanes of one vector, in a fixed tree order.
template <class V, class Combine>
inline auto reduce(V v, Combine combine) {
  constexpr int kCount = sizeof(V) / sizeof(v[0]);
  [&]<int... S>(std::integer_sequence<int, S...>) {
    ((kCount >> (S + 1) ? void(v = combine(v, interleave<(kCount >> (S + 1)), true>(v, v)))
                        : void()),
     ...);
  }(std::make_integer_sequence<int, 4>{});
  return v[0];
}

inline constexpr auto add = [](auto a, auto b) { return a + b; };
inline constexpr auto maximum = [](auto a, auto b) { return b > a ? b : a; };
inline constexpr auto minimum = [](auto a, auto b) { return b < a ? b : a; };

}  // namespace facekernels::FK_CPU_VARIANT
