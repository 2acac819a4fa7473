// What decides which pixel is erased, and with what: shared by the CPU and CUDA kernels, which
// therefore agree to the bit.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/exact.h"
#include "core/host_device.h"

namespace facekernels::erase {

// ---- Rectangles

struct Span {
  int64_t begin, end;
};

// [anchor - before, anchor - before + length) within [0, size); empty for length <= 0.
FK_HOST_DEVICE inline Span clip(int64_t anchor, int64_t length, int64_t before, int64_t size) {
  constexpr int64_t kFar = int64_t{1} << 40;  // beyond every map, and safe to add
  length = length < kFar ? length : kFar;
  before = before < -kFar ? -kFar : before < kFar ? before : kFar;
  const int64_t begin = anchor - before;
  const int64_t end = length > 0 ? begin + length : begin;
  const Span s{begin > 0 ? begin : 0, end < size ? end : size};
  return s.begin < s.end ? s : Span{0, 0};
}

// ---- Bilinear resizing, align_corners = false

// in[low] * (1 - weight) + in[high] * weight. The position is an exact fraction, so the weight is
// one correctly rounded quotient.
template <class A>
struct Tap {
  int32_t low, high;
  A weight;
};

template <class A>
FK_HOST_DEVICE inline Tap<A> tap(int64_t position, int64_t in, int64_t out) {
  const int64_t numerator = (2 * position + 1) * in - out;  // of the position, over 2 * out
  if (numerator <= 0) return {0, in > 1 ? 1 : 0, A(0)};
  const int64_t low = numerator / (2 * out), rest = numerator - low * (2 * out);
  return {static_cast<int32_t>(low), static_cast<int32_t>(low + 1 < in ? low + 1 : low),
          static_cast<A>(rest) / static_cast<A>(2 * out)};
}

template <class A>
FK_HOST_DEVICE inline A mix(A low, A high, A weight) {
  return exact_add(exact_mul(A(1) - weight, low), exact_mul(weight, high));
}

// ---- Noise

// Philox4x32-10 (Salmon et al., 2011) with the counter (block, 0, 0) and the key `seed`.
struct Draw {
  uint32_t word[4];
};

FK_HOST_DEVICE inline Draw philox(uint64_t block, uint64_t seed) {
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  uint32_t c0 = static_cast<uint32_t>(block), c1 = static_cast<uint32_t>(block >> 32);
  uint32_t c2 = 0, c3 = 0;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0, p1 = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ key0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ key1;
    c3 = static_cast<uint32_t>(p0);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// The noise of element i of an NCHW tensor is made of word i % 4 of draw i / 4. Rounding must not
// reach the open end of the interval, hence the clamp.
template <class A>
FK_HOST_DEVICE inline A uniform(uint32_t word, A low, A span, A lowest, A highest) {
  const A u = static_cast<A>(word >> 8) * A(5.9604644775390625e-8);  // 2^-24
  const A v = exact_add(low, exact_mul(u, span));
  return v < lowest ? lowest : v > highest ? highest : v;
}

}  // namespace facekernels::erase
