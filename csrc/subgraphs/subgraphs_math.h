#pragma once

#include <cstdint>

#include "core/host_device.h"
#include "subgraphs/subgraphs.h"

namespace facekernels::subgraphs {

// Whether `other` is among the first u neighbours of `node`.
FK_HOST_DEVICE inline bool links(const Neighborhoods& g, int64_t node, int64_t other) {
  const int64_t* const neighbors = g.knn + node * g.k;
  bool found = false;
  for (int64_t j = 0; j < g.u; ++j) found |= neighbors[j] == other;
  return found;
}

}  // namespace facekernels::subgraphs
