// Elementary functions on the vectors of simd.h.
#pragma once

#include <cmath>

#include "core/simd.h"

namespace facekernels::FK_CPU_VARIANT {

// e^x to 2 ulp; results below 2^-125.5 become 0, above the largest float infinity. NaN stays NaN.
inline Vec<float> exp(Vec<float> x) {
  using V = Vec<float>;
  using I = Vec<int32_t>;
  constexpr float kLowest = -86.98f, kHighest = 88.72283f;  // ln of 2^-125.5 and of the largest float
  const auto too_low = x < splat(kLowest);
  const auto too_high = x > splat(kHighest);
  const V clamped = too_low ? splat(kLowest) : too_high ? splat(kHighest) : x;

  // x = n ln 2 + r. Adding 1.5 * 2^23 rounds to an integer and leaves it in the low mantissa bits.
  const V magic = splat(12582912.0f);
  const V shifted = clamped * 1.44269504f + magic;
  const V n = shifted - magic;
  const V r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;  // ln 2 in two parts

  // (e^r - 1 - r) / r^2 on |r| <= ln 2 / 2, a minimax fit with relative error 3e-9 in e^r.
  V q = splat(1.38145394e-3f);
  q = q * r + 8.36874545e-3f;
  q = q * r + 4.16683890e-2f;
  q = q * r + 1.66665211e-1f;
  q = q * r + 4.99999940e-1f;
  const V p = (q * r) * r + r + 1.0f;

  // 2^(n-1), so that the exponent of the largest results does not overflow; then twice p.
  I bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + 126) << 23;
  V scale;
  std::memcpy(&scale, &bits, sizeof scale);
  const V result = (p + p) * scale;
  return too_low ? V{} : too_high ? splat(HUGE_VALF) : result;
}

inline Vec<double> exp(Vec<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = std::exp(x[i]);
  return x;
}

}  // namespace facekernels::FK_CPU_VARIANT
