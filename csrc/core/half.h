// 16-bit floating-point storage types of the CPU kernels; arithmetic is done in float.
#pragma once

#include <cstdint>
#include <cstring>

namespace facekernels {

struct Half {
  uint16_t bits;

  operator float() const {
    _Float16 value;
    std::memcpy(&value, &bits, sizeof bits);
    return static_cast<float>(value);
  }
  static Half from(float x) {
    const _Float16 value = static_cast<_Float16>(x);
    Half h;
    std::memcpy(&h.bits, &value, sizeof h.bits);
    return h;
  }
};

struct BFloat16 {
  uint16_t bits;

  operator float() const {
    const uint32_t word = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &word, sizeof value);
    return value;
  }
  // Round to nearest even; a NaN stays a (quiet) NaN.
  static BFloat16 from(float x) {
    uint32_t word;
    std::memcpy(&word, &x, sizeof word);
    if ((word & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((word >> 16) | 0x40u)};
    return {static_cast<uint16_t>((word + 0x7fffu + ((word >> 16) & 1u)) >> 16)};
  }
};

// One spelling for every element type: storage from accumulator.
template <class T, class A>
T narrow(A x) {
  if constexpr (requires { T::from(x); }) {
    return T::from(static_cast<float>(x));
  } else {
    return static_cast<T>(x);
  }
}

}  // namespace facekernels
