// The order of peaks and the test of one cell, shared by the CPU and CUDA kernels.
#pragma once

#include <cstdint>

#include "core/host_device.h"
#include "core/map_stack.h"

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

// Whether nothing in the window around (x, y) beats `value`; at(u, v) reads a cell. Comparisons
// with NaN are false, so a NaN beats nothing.
template <class A, class At>
FK_HOST_DEVICE inline bool is_peak(const MapStack& maps, int64_t x, int64_t y, int64_t radius,
                                   bool strict, A value, At at) {
  const int64_t x0 = x > radius ? x - radius : 0, y0 = y > radius ? y - radius : 0;
  const int64_t x1 = maps.width - x > radius ? x + radius + 1 : maps.width;
  const int64_t y1 = maps.height - y > radius ? y + radius + 1 : maps.height;
  for (int64_t v = y0; v < y1; ++v) {
    for (int64_t u = x0; u < x1; ++u) {
      const A other = at(u, v);
      if (other > value) return false;
      if (strict && other == value && (u != x || v != y)) return false;
    }
  }
  return true;
}

}  // namespace facekernels::peaks
