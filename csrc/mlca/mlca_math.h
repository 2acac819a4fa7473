// Per-element maths of the MLCA gate, shared by the CPU and CUDA kernels.
#pragma once

#include <cmath>

#include "core/host_device.h"

namespace facekernels::mlca {

FK_HOST_DEVICE inline float sigmoid(float z) {
  return 1.0f / (1.0f + expf(-z));
}
FK_HOST_DEVICE inline double sigmoid(double z) {
  return 1.0 / (1.0 + exp(-z));
}

// relu that lets a NaN through, as torch's does.
template <class A>
FK_HOST_DEVICE inline A relu(A v) {
  return v <= A(0) ? A(0) : v;
}

// A running maximum with its position. Equal values keep the earlier position; a NaN never replaces
// a number (it reaches the result through the mean).
template <class A>
FK_HOST_DEVICE inline bool replaces(A value, int index, A best, int best_index) {
  return value > best || (value == best && index < best_index);
}

// Whether a gradient passes relu at v; a NaN lets it pass, as in torch.
template <class A>
FK_HOST_DEVICE inline bool passes_relu(A v) {
  return !(v <= A(0));
}

}  // namespace facekernels::mlca
