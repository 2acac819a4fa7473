// Per-element maths of the attention maps, shared by the CPU and CUDA kernels.
#pragma once

#include <cmath>

#include "core/host_device.h"

namespace facekernels::gradient_attention {

template <class A>
FK_HOST_DEVICE inline A magnitude(A v) {
  return v < A(0) ? -v : v;
}

// A running maximum keeps the first of equal values; a NaN takes over and stays.
template <class A>
FK_HOST_DEVICE inline bool replaces(A value, A best) {
  return value > best || (value != value && best == best);
}

template <class A>
FK_HOST_DEVICE inline A sign(A v) {
  return v > A(0) ? A(1) : v < A(0) ? A(-1) : A(0);
}

// relu that lets a NaN through, as torch's does.
template <class A>
FK_HOST_DEVICE inline A relu(A v) {
  return v <= A(0) ? A(0) : v;
}

}  // namespace facekernels::gradient_attention
