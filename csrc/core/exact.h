// Products and sums that are rounded one by one. nvcc and g++ would fuse a * b + c where the
// processor can, and the last bit would depend on the back end. Kernels that promise equal bits use
// these; their CPU files are compiled with -ffp-contract=off.
#pragma once

#include "core/host_device.h"

namespace facekernels {

FK_HOST_DEVICE inline float exact_mul(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}
FK_HOST_DEVICE inline double exact_mul(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}
FK_HOST_DEVICE inline float exact_add(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}
FK_HOST_DEVICE inline double exact_add(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dadd_rn(a, b);
#else
  return a + b;
#endif
}

}  // namespace facekernels
