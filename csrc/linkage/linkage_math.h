#pragma once

#include <cstdint>

#include "core/host_device.h"
#include "linkage/linkage.h"

namespace facekernels::linkage {

FK_HOST_DEVICE inline int64_t source_of(const CombineArgs& args, int64_t row) {
  return args.nodes ? args.nodes[row] : row;
}

FK_HOST_DEVICE inline int64_t group_of(const CombineArgs& args, int64_t row) {
  return args.groups ? args.groups[row] : 0;
}

template <class A>
FK_HOST_DEVICE inline A mean_factor(int64_t degree) {
  return degree > 0 ? A(1) / static_cast<A>(degree) : A(0);
}

}  // namespace facekernels::linkage
