// The only device header a kernel file includes. nvcc compiles the kernels for a GPU; a host
// compiler with -DFK_EMULATE compiles the same files to run on the CPU (docs/emulation.md).
//
//   FK_SHARED(float, tile, [16][17]);    static shared memory (dims may be empty: a scalar)
//   FK_DYN_SHARED(float, buffer);        dynamic shared memory, 16-byte aligned
//   FK_UNROLL                            unroll the next loop completely
//   facekernels::launch(name, grid, block, smem_bytes, stream, kernel<...>, args...)
#pragma once

#if defined(__CUDACC__)
#include "core/device_cuda.cuh"
#elif defined(FK_EMULATE)
#include "emulation/emulation.h"
#else
#error "compile with nvcc, or with a host compiler and -DFK_EMULATE"
#endif
