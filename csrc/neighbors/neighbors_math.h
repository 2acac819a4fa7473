#pragma once

#include <cstdint>

#include "core/host_device.h"
#include "neighbors/neighbors.h"

namespace facekernels::neighbors {

// 1 / degree; a row without edges contributes and receives nothing.
template <class A>
FK_HOST_DEVICE inline A reciprocal(int64_t degree) {
  return degree > 0 ? A(1) / static_cast<A>(degree) : A(0);
}

}  // namespace facekernels::neighbors
