// Compiles a CUDA C++ kernel file as ordinary C++20 and runs it on the CPU: one fiber per CUDA
// thread, with the rules of the programming guide checked (docs/emulation.md). Kernel files
// include core/device.cuh, never this header.
#pragma once

#if defined(__CUDACC__)
#error "emulation.h is for host compilers; kernels include core/device.cuh"
#endif

#include "async_copy.h"
#include "atomics.h"
#include "block_functions.h"
#include "cuda_types.h"
#include "half_types.h"
#include "launch.h"
#include "math_functions.h"
#include "memory_functions.h"
#include "refused_functions.h"
#include "shared_memory.h"
#include "warp_functions.h"
