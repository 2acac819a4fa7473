// Scalar maths shared by the CPU and CUDA kernels of the family.
#pragma once

#include <cfloat>
#include <cstdint>

#include "core/host_device.h"
#include "core/map_stack.h"

namespace facekernels::soft_argmax {

// beta as the accumulator type: 0 or infinity there would make NaN of a cell at -infinity or at the
// maximum.
template <class A>
FK_HOST_DEVICE inline A sharpness(double beta) {
  if (sizeof(A) == sizeof(double)) return static_cast<A>(beta);
  return static_cast<A>(beta < FLT_MIN ? FLT_MIN : beta > FLT_MAX ? FLT_MAX : beta);
}

// Pixel position -> [-1, 1]; the only position of a one-pixel axis is its centre, 0.
template <class A>
FK_HOST_DEVICE inline A normalize(A pixel, int64_t size) {
  return size > 1 ? A(2) * pixel / static_cast<A>(size - 1) - A(1) : A(0);
}

// d normalize / d pixel
template <class A>
FK_HOST_DEVICE inline A normalize_slope(int64_t size) {
  return size > 1 ? A(2) / static_cast<A>(size - 1) : A(0);
}

// The square of side 2 radius + 1 around a cell, clipped at the borders; ends are exclusive.
struct Window {
  int64_t x0, x1, y0, y1;

  FK_HOST_DEVICE Window(const MapStack& maps, int64_t cell, int64_t radius) {
    const int64_t x = cell % maps.width, y = cell / maps.width;
    x0 = x > radius ? x - radius : 0;
    y0 = y > radius ? y - radius : 0;
    x1 = maps.width - x > radius ? x + radius + 1 : maps.width;
    y1 = maps.height - y > radius ? y + radius + 1 : maps.height;
  }
  FK_HOST_DEVICE bool contains(int64_t x, int64_t y) const {
    return x >= x0 && x < x1 && y >= y0 && y < y1;
  }
};

// max(v, 0) that lets a NaN through.
template <class A>
FK_HOST_DEVICE inline A positive_part(A v) {
  return v <= A(0) ? A(0) : v;
}

// Centre of mass from the window's sums of w, w (x - x0) and w (y - y0).
template <class A>
FK_HOST_DEVICE inline void center_of(const Window& window, int64_t width, int64_t cell, A sum,
                                     A sum_x, A sum_y, A* xy) {
  const bool nothing = sum == A(0);
  xy[0] = nothing ? static_cast<A>(cell % width) : static_cast<A>(window.x0) + sum_x / sum;
  xy[1] = nothing ? static_cast<A>(cell / width) : static_cast<A>(window.y0) + sum_y / sum;
}

}  // namespace facekernels::soft_argmax
