// Rows as 8-bit integers, four times as many products per instruction, with a bound on what that
// costs: x = scale * code + residual, so by Cauchy and Schwarz
//
//   |<q, x> - scale_q scale_x <code_q, code_x>| <= |residual_q| |x| + |scale_q code_q| |residual_x|
//
// A pair whose coarse score is further below a threshold than that cannot pass it. Needs AVX-512
// VNNI, which no variant requires: `codes_supported` asks the processor.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/aligned.h"
#include "core/parallel.h"
#include "core/simd.h"

namespace facekernels::knn::FK_CPU_VARIANT {

using namespace facekernels::FK_CPU_VARIANT;

constexpr int kCodesPerWord = 4;

struct Codes {
  int64_t rows = 0, words = 0;  // words of a row: four codes each, the last ones 0
  Aligned<int32_t> word;        // [rows, words]
  Aligned<float> scale;         // [rows], above 0
  Aligned<float> norm, residual;
  Aligned<int32_t> correction;  // [rows], -128 times the sum of a row's codes
};

constexpr int64_t kMaxCodedDim = 32768;  // of which sums of products fit into 32 bits

inline bool codes_supported([[maybe_unused]] int64_t dim) {
#if defined(__AVX512F__)
  static const bool supported = __builtin_cpu_supports("avx512vnni");
  return supported && dim <= kMaxCodedDim;
#else
  return false;
#endif
}

inline Codes encode(const float* x, int64_t rows, int64_t dim) {
  const int64_t words = (dim + kCodesPerWord - 1) / kCodesPerWord;
  Codes codes{rows,
              words,
              allocate_aligned<int32_t>(rows * words),
              allocate_aligned<float>(rows),
              allocate_aligned<float>(rows),
              allocate_aligned<float>(rows),
              allocate_aligned<int32_t>(rows)};
  parallel_for(rows, 4 * dim, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const float* const from = x + r * dim;
      float largest = 0.0f;
      for (int64_t d = 0; d < dim; ++d) largest = std::max(largest, std::fabs(from[d]));
      // A row of next to nothing is all residual: its scale would not be a normal number.
      const bool tiny = largest < 1e-30f;
      const float scale = tiny ? 1.0f : largest / 127.0f, inverse = tiny ? 0.0f : 127.0f / largest;
      int8_t* const code = reinterpret_cast<int8_t*>(codes.word.get() + r * words);
      float squares = 0.0f, left = 0.0f;  // in units of the scale, where nothing underflows
      int32_t sum = 0;
      for (int64_t d = 0; d < dim; ++d) {
        const float value = from[d] * inverse, rounded = std::nearbyint(value);
        code[d] = static_cast<int8_t>(rounded);
        sum += code[d];
        squares += value * value;
        left += (value - rounded) * (value - rounded);
      }
      std::fill(code + dim, code + kCodesPerWord * words, int8_t{0});
      codes.scale[r] = scale;
      const float all = largest * std::sqrt(static_cast<float>(dim));
      codes.norm[r] = tiny ? all : scale * std::sqrt(squares);
      codes.residual[r] = tiny ? all : scale * std::sqrt(left);
      codes.correction[r] = -128 * sum;
    }
  });
  return codes;
}

// More than the error of a coarse score of q and any row of at most that norm and residual, with
// what rounding adds: to sums of `words` squares, to the score, and to the threshold.
inline float coarse_margin(const Codes& codes, int64_t q, float norm, float residual) {
  const float rounding = 1e-6f + 1e-7f * static_cast<float>(codes.words);
  const float own = codes.norm[q] + codes.residual[q];
  const float error = codes.residual[q] * norm + own * residual;
  return (1.0f + 2.0f * rounding) * error + rounding * own * (norm + residual) + 1e-37f;
}

#if defined(__AVX512F__)
// sum + the products of the four unsigned codes of `a` and the four signed ones of `b`, by lane. In
// assembly: the variant is compiled without VNNI, and GCC 12 moves the sums of its intrinsic
// through memory.
inline Vec<int32_t> add_products(Vec<int32_t> sum, Vec<int32_t> a, Vec<int32_t> b) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  return sum;
}

inline Vec<int32_t> load_words(const int32_t* p) {
  Vec<int32_t> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

// out[r][c] = <code of row r, code of column c>, of panels of kRows and kVectors * 16 words. The
// rows' codes carry +128, since the instruction multiplies unsigned by signed; `correction` takes
// it off.
template <int kRows, int kVectors>
inline void multiply_codes(const int32_t* rows, const int32_t* columns, const int32_t* correction,
                           int64_t words, int32_t* out) {
  constexpr int kLane = kLanes<int32_t>;
  Vec<int32_t> sums[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sums[r][v] = load_words(correction + kLane * v);
  }
  for (int64_t w = 0; w < words; ++w, rows += kRows, columns += kLane * kVectors) {
    Vec<int32_t> c[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) c[v] = load_words(columns + kLane * v);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Vec<int32_t> row = splat(rows[r]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[r][v] = add_products(sums[r][v], row, c[v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      std::memcpy(out + (r * kVectors + v) * kLane, &sums[r][v], sizeof sums[r][v]);
    }
  }
}
#endif

}  // namespace facekernels::knn::FK_CPU_VARIANT
