#include "core/cpu_variant.h"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace facekernels {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

CpuVariant best_supported() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("fma")) {
    return CpuVariant::avx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return CpuVariant::avx2;
#endif
  return CpuVariant::baseline;
}

CpuVariant choose() {
  const CpuVariant best = best_supported();
  if (const char* asked = std::getenv("FACEKERNELS_CPU_VARIANT")) {
    for (int i = 0; i <= static_cast<int>(best); ++i) {
      if (std::strcmp(asked, kNames[i]) == 0) return static_cast<CpuVariant>(i);
    }
    throw std::invalid_argument(
        std::string("FACEKERNELS_CPU_VARIANT must be a variant this processor supports, up to ") +
        kNames[static_cast<int>(best)] + ", got " + asked);
  }
  return best;
}

}  // namespace

CpuVariant cpu_variant() {
  static const CpuVariant variant = choose();
  return variant;
}

const char* cpu_variant_name() {
  return kNames[static_cast<int>(cpu_variant())];
}

}  // namespace facekernels
