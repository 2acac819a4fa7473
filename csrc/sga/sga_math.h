// Per-element maths of the SGA updates, shared by the CPU and CUDA kernels.
#pragma once

#include <cstdint>

#include "core/exact.h"
#include "core/host_device.h"

namespace facekernels::sga {

// The L1 norm, in an order every back end can follow: chunks of kNormChunk values, in each of which
// lane j adds values j, j + kNormLanes, ... and the lanes are added pairwise, j with
// j + kNormLanes / 2 first. The same lanes and tree then add the sums of the chunks.
inline constexpr int kNormLanes = 64;
inline constexpr int64_t kNormChunk = 1024;

FK_HOST_DEVICE inline int64_t norm_chunks(int64_t size) {
  return (size + kNormChunk - 1) / kNormChunk;
}

// value / 255, rounded as the division is. 257 / 65536 has so few bits that the first product is
// exact; the second is the small rest of 1 / 255.
FK_HOST_DEVICE inline float pixel(uint8_t value, float) {
  const float v = static_cast<float>(value);
  return v * 0x1.01p-8f + v * 0x1.010102p-24f;
}
FK_HOST_DEVICE inline double pixel(uint8_t value, double) {
  return static_cast<double>(value) / 255.0;
}
template <class A>
FK_HOST_DEVICE inline A pixel(A value, A) {
  return value;
}

// As torch.clamp: a NaN stays.
template <class A>
FK_HOST_DEVICE inline A clamp(A v, A low, A high) {
  return v < low ? low : v > high ? high : v;
}

// Where the clamp to [0, 1] passes a gradient: at the bounds too.
template <class A>
FK_HOST_DEVICE inline bool passes(A v) {
  return v >= A(0) && v <= A(1);
}

// clamp(delta + step sign(g)); a g of 0 or NaN adds nothing.
template <class A>
FK_HOST_DEVICE inline A sign_step(A delta, A g, A step, A epsilon) {
  const A moved = delta + (g > A(0) ? step : g < A(0) ? -step : A(0));
  return clamp(moved, -epsilon, epsilon);
}

// What the norm divides by; 0 stands for a norm that is 0, infinite or NaN, where nothing is added.
template <class A>
FK_HOST_DEVICE inline A usable_norm(A norm) {
  return norm > A(0) && norm - norm == A(0) ? norm : A(0);
}

template <class A>
FK_HOST_DEVICE inline A momentum_step(A velocity, A g, A momentum, A norm) {
  return exact_add(exact_mul(momentum, velocity), norm > A(0) ? g / norm : A(0));
}

}  // namespace facekernels::sga
