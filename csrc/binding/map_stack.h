// Reads a [B, K, H, W] tensor as a stack of maps.
#pragma once

#include <string>

#include "core/check.h"
#include "core/map_stack.h"

namespace facekernels {

inline MapStack map_stack_of(const char* name, const TensorView& t) {
  check_lazy(t.ndim == 4, [&] {
    return std::string(name) + " must be [B, K, H, W], got shape " + shape_string(t.shape, t.ndim);
  });
  const MapStack maps{t.size(0),   t.size(1),   t.size(2),   t.size(3),
                      t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
  check_lazy(maps.cells() > 0 || maps.count() == 0, [&] {
    return std::string(name) + " must have maps of at least 1 x 1, got " +
           std::to_string(maps.height) + " x " + std::to_string(maps.width);
  });
  check_lazy(maps.cells() < (int64_t{1} << 31),
             [&] { return std::string(name) + " must have maps of less than 2^31 cells"; });
  return maps;
}

}  // namespace facekernels
