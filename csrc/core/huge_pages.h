// Large outputs that are written for the first time: most of that time goes into their page faults.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace facekernels {

// Asks for huge pages behind `bytes` that are about to be written whole. glibc maps allocations
// above 32 MB anew each time, and the kernel then enters on every 4 KB; NumPy asks for the same.
// A hint: smaller buffers, other systems and refusals change nothing.
[[gnu::always_inline]] inline void prefer_huge_pages([[maybe_unused]] void* data,
                                                     [[maybe_unused]] size_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t kPage = 2u << 20;
  constexpr size_t kMapped = 32u << 20;
  if (bytes < kMapped) return;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kPage - 1) / kPage * kPage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / kPage * kPage;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace facekernels
