// Marks small inline functions shared by CPU and CUDA code. nvcc needs the qualifiers; every other
// compiler must not see them.
#pragma once

#if defined(__CUDACC__)
#define FK_HOST_DEVICE __host__ __device__
#else
#define FK_HOST_DEVICE
#endif
