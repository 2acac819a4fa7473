// Declares the CUDA launcher `name(args, stream)`. Where neither nvcc nor the emulation compiles
// the .cu files, the launcher is a function that says so.
#pragma once

#include <stdexcept>

#include "core/stream.h"

#if defined(FK_WITH_CUDA) || defined(FK_EMULATE) || defined(__CUDACC__)
#define FK_CUDA_KERNEL(name, Args) void name(const Args& args, ::facekernels::Stream stream)
#else
#define FK_CUDA_KERNEL(name, Args)                                               \
  inline void name(const Args&, ::facekernels::Stream) {                         \
    throw std::runtime_error(                                                    \
        "facekernels was built without CUDA: reinstall it where nvcc is found, " \
        "with FACEKERNELS_CUDA=ON, or move the tensors to the CPU");             \
  }                                                                              \
  static_assert(true)
#endif
