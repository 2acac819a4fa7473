// Positions and taps of a zero-padded convolution, shared by the CPU and CUDA kernels.
#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace facekernels::conv_pools {

// The positions along one side whose neighbour at `offset` lies inside: [first, last).
struct Span {
  int64_t first, last;
};

FK_HOST_DEVICE inline Span inside(int64_t offset, int64_t side) {
  const int64_t first = offset < 0 ? -offset : 0;
  const int64_t last = offset > 0 ? side - offset : side;
  return {first < side ? first : side, last > 0 ? last : 0};
}

// Signed distance of tap index `tap` from the centre of a kernel side.
FK_HOST_DEVICE inline int64_t offset_of(int64_t tap, int64_t kernel) {
  return tap - kernel / 2;
}

}  // namespace facekernels::conv_pools
