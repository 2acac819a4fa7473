// Tensor cores: products of half-precision matrices by one warp, with the fragment layouts of the
// PTX ISA. Under emulation the same functions are collectives of the warp's fibers.
#pragma once

#include <cstdint>

#include "core/device.cuh"

#if !defined(__CUDACC__)
#include "emulation/matrix_functions.h"
#else

namespace facekernels {

// Four 8 x 8 matrices of 16-bit elements. Lane l names row l % 8 of matrix l / 8, 16 bytes in
// shared memory; it receives of each matrix m, in r[m], elements 2 (l % 4) and the next of row
// l / 4.
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const void* row) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// sum [16 x 8] += a [16 x 16] b [16 x 8]. With g = lane / 4 and t = lane % 4: a holds the quarters
// (rows g, columns 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8) of two neighbours each; b rows
// 2t and 2t + 8 with the next, column g; sum rows g, g, g + 8, g + 8, columns 2t and 2t + 1.
__device__ __forceinline__ void multiply_halves(float (&sum)[4], const uint32_t (&a)[4],
                                                const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  FK_UNROLL
  for (int half = 0; half < 2; ++half) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
  }
#endif
}

}  // namespace facekernels

#endif
