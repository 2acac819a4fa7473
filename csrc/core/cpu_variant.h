// One wheel holds every CPU kernel compiled for several instruction sets; one set is chosen at run
// time. A kernel file is compiled once per variant with FK_CPU_VARIANT naming its namespace.
#pragma once

namespace facekernels {

enum class CpuVariant { baseline, avx2, avx512 };

// The best variant this processor supports, or a lower one named by FACEKERNELS_CPU_VARIANT
// ("baseline", "avx2", "avx512"); another name is an error. Decided once per process.
CpuVariant cpu_variant();
const char* cpu_variant_name();

}  // namespace facekernels

// Declares `name(args)` for every compiled variant, and the function that picks one.
#if defined(FK_EMULATE)  // the emulated module holds no CPU kernels
#define FK_CPU_KERNEL(name, Args) \
  inline void name(const Args&) {}
#elif defined(__x86_64__)
#define FK_CPU_KERNEL(name, Args)                                        \
  namespace baseline {                                                   \
  void name(const Args& args);                                           \
  }                                                                      \
  namespace avx2 {                                                       \
  void name(const Args& args);                                           \
  }                                                                      \
  namespace avx512 {                                                     \
  void name(const Args& args);                                           \
  }                                                                      \
  inline void name(const Args& args) {                                   \
    switch (::facekernels::cpu_variant()) {                              \
      case ::facekernels::CpuVariant::avx512: return avx512::name(args); \
      case ::facekernels::CpuVariant::avx2: return avx2::name(args);     \
      default: return baseline::name(args);                              \
    }                                                                    \
  }
#else
#define FK_CPU_KERNEL(name, Args)      \
  namespace baseline {                 \
  void name(const Args& args);         \
  }                                    \
  inline void name(const Args& args) { \
    return baseline::name(args);       \
  }
#endif
