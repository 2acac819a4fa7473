// The order of peaks, shared by the CPU and CUDA kernels.
#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace facekernels::peaks {

template <class A>
struct Peak {
  A score;
  int32_t cell;
};

// Better score first; of equal scores the earlier cell.
template <class A>
FK_HOST_DEVICE inline bool before(Peak<A> a, Peak<A> b) {
  return a.score > b.score || (a.score == b.score && a.cell < b.cell);
}

}  // namespace facekernels::peaks
