// The warp functions that lanes of one warp are waiting in.
#pragma once

#include <cstdint>

#include "runtime.h"

namespace facekernels::emulation {

// Lanes with the same mask meet here; several calls with disjoint masks may be pending at once.
struct PendingWarpCall {
  Operation operation;
  uint32_t mask;
  uint32_t arrived;
  unsigned input_bytes;
  CombineLanes combine;
  SourceLocation where;
  unsigned edge;  // index into Warp::edges
};

struct Warp {
  static constexpr unsigned kEdges = 8;

  uint32_t existing = 0;  // the last warp of a block may be partial
  uint32_t exited = 0;
  unsigned pending_count = 0;
  PendingWarpCall pending[kLanes];
  unsigned calls = 0;
  char edges[kEdges] = {};  // addresses that stand for __syncwarp in ThreadSanitizer, in turn

  uint32_t expected(uint32_t mask) const { return mask & existing & ~exited; }
};

}  // namespace facekernels::emulation
