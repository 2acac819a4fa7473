// The topk best local maxima of every map of a stack.
//
// A cell is a peak if it is above the threshold and no other cell of the kernel x kernel window
// around it is larger (strict: larger or equal). Cells outside the map and NaN count as -infinity.
// Peaks are ordered by (score descending, index ascending).
#pragma once

#include <cstdint>

#include "core/cpu_variant.h"
#include "core/cuda_kernel.h"
#include "core/map_stack.h"
#include "core/tensor_view.h"

namespace facekernels::peaks {

struct PeaksArgs {
  MapStack maps;
  DType dtype;
  int64_t radius;    // (kernel - 1) / 2
  double threshold;  // exact in float unless the maps are double
  bool strict;
  int64_t topk;
  const void* heatmaps;
  void* xy;        // [B, K, topk, 2], float, or double when the maps are; -1 past the count
  void* score;     // [B, K, topk], dtype of the maps; 0 past the count
  int64_t* index;  // [B, K, topk], y * W + x; -1 past the count
  int64_t* count;  // [B, K]
};

FK_CPU_KERNEL(peaks_cpu, PeaksArgs)
FK_CUDA_KERNEL(peaks_cuda, PeaksArgs);

}  // namespace facekernels::peaks
