// Vectorised elementary functions of the CPU kernels.
#pragma once

#include <array>
#include <bit>

#include "core/simd.h"

namespace facekernels::FK_CPU_VARIANT {

template <class T>
struct ExpTraits;

// Range reduction constants: ln 2 split so that n * kLn2High is exact, and the number of Taylor
// terms that leaves less than half an ulp at |r| = ln(2) / 2.
template <>
struct ExpTraits<float> {
  static constexpr int kMantissaBits = 23, kBias = 127, kDegree = 7;
  static constexpr float kRoundingMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to integer
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  static constexpr float kLowest = -104.0f, kHighest = 89.0f;  // beyond: 0 and inf
};
template <>
struct ExpTraits<double> {
  static constexpr int kMantissaBits = 52, kBias = 1023, kDegree = 13;
  static constexpr double kRoundingMagic = 6755399441055744.0;
  static constexpr double kLn2High = 6.93145751953125e-1, kLn2Low = 1.42860682030941723212e-6;
  static constexpr double kLowest = -746.0, kHighest = 710.0;
};

// e^x to about one ulp, denormal results, infinities and NaN included.
template <class T>
inline Vec<T> exp_of(Vec<T> x) {
  using Traits = ExpTraits<T>;
  using Index = Vec<IndexOf<T>>;
  constexpr auto kFactorials = [] {  // 1 / k!
    std::array<T, Traits::kDegree + 1> inverse{};
    double factorial = 1;
    for (int k = 0; k <= Traits::kDegree; ++k) {
      factorial *= k ? k : 1;
      inverse[k] = static_cast<T>(1 / factorial);
    }
    return inverse;
  }();
  x = x > splat(Traits::kHighest) ? splat(Traits::kHighest) : x;  // a NaN passes both
  x = x < splat(Traits::kLowest) ? splat(Traits::kLowest) : x;

  // x = n ln 2 + r with |r| <= ln(2) / 2.
  const Vec<T> shifted = x * static_cast<T>(1.4426950408889634) + Traits::kRoundingMagic;
  const Vec<T> n = shifted - Traits::kRoundingMagic;
  const Vec<T> r = (x - n * Traits::kLn2High) - n * Traits::kLn2Low;
  Vec<T> p = splat(kFactorials[Traits::kDegree]);
  for (int k = Traits::kDegree - 1; k >= 0; --k) p = p * r + kFactorials[k];

  // p 2^n in two factors, because 2^n alone may be out of range where the result is not.
  const Index exponent =
      std::bit_cast<Index>(shifted) - std::bit_cast<IndexOf<T>>(Traits::kRoundingMagic);
  const Index half = exponent >> 1;
  const auto power_of_two = [](Index e) {
    return std::bit_cast<Vec<T>>((e + Traits::kBias) << Traits::kMantissaBits);
  };
  return p * power_of_two(half) * power_of_two(exponent - half);
}

template <class T>
inline Vec<T> sigmoid_of(Vec<T> z) {
  return T(1) / (T(1) + exp_of<T>(-z));
}

}  // namespace facekernels::FK_CPU_VARIANT
