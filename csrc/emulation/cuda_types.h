// Qualifiers, dim3 and cudaStream_t (from the toolkit's own host headers), and the built-in
// variables.
#pragma once

// Before the toolkit headers: host_defines.h makes every qualifier empty outside nvcc, except a
// __shared__ that is already defined. A bare __shared__ array works, but unchecked: FK_SHARED is
// the form that the sanitizers see.
#define __shared__ static thread_local
#define __launch_bounds__(...)

#include <driver_types.h>
#include <vector_types.h>

// Real objects rather than macros, so that members called gridDim in toolkit structs survive.
#define FK_EMU_THREAD_LOCAL thread_local __attribute__((tls_model("initial-exec")))
extern FK_EMU_THREAD_LOCAL uint3 threadIdx;
extern FK_EMU_THREAD_LOCAL uint3 blockIdx;
extern FK_EMU_THREAD_LOCAL dim3 blockDim;
extern FK_EMU_THREAD_LOCAL dim3 gridDim;
inline constexpr int warpSize = 32;

#define FK_UNROLL
