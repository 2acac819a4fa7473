// Differentiable peak positions of a stack of maps h[y, x].
//
//   soft-argmax     w = softmax(beta h) over the map
//   centre of mass  w = max(h, 0) inside |x - px| <= r, |y - py| <= r, divided by its sum, where
//                   (px, py) is the first maximum; (px, py) itself if the sum is 0
//   xy = (sum w x, sum w y)
//
// Forward reads the map once. Backward reads it again and recomputes w from a few saved numbers:
//   soft-argmax     dh = beta w ((x - mean_x) gx + (y - mean_y) gy)
//   centre of mass  dh = [h > 0 in the window] ((x - mean_x) gx + (y - mean_y) gy) / sum
#pragma once

#include <cstdint>

#include "core/cpu_variant.h"
#include "core/cuda_kernel.h"
#include "core/map_stack.h"
#include "core/tensor_view.h"

namespace facekernels::soft_argmax {

// Positions, statistics and gradients of positions are float, or double when the maps are.
struct SoftArgs {
  MapStack maps;
  DType dtype;
  double beta;
  bool normalized;  // xy in [-1, 1] from the first to the last column and row, else in pixels
  const void* heatmaps;
  void* xy;     // [B, K, 2]
  void* stats;  // [B, K, 4]: max, 1 / sum exp(beta (h - max)), mean x, mean y in pixels; or null
};

struct SoftBackwardArgs {
  MapStack maps;
  DType dtype;
  double beta;
  bool normalized;
  const void* heatmaps;
  const void* stats;  // [B, K, 4]
  const void* d_xy;   // [B, K, 2]
  void* d_heatmaps;   // [B, K, H, W] contiguous
};

struct CenterArgs {
  MapStack maps;
  DType dtype;
  int64_t radius;
  const void* heatmaps;
  void* xy;         // [B, K, 2] in pixels
  void* sum;        // [B, K] sum of the weights, or null
  int32_t* argmax;  // [B, K] flat index of the first maximum, or null
};

struct CenterBackwardArgs {
  MapStack maps;
  DType dtype;
  int64_t radius;
  const void* heatmaps;
  const void* xy;
  const void* sum;
  const int32_t* argmax;
  const void* d_xy;  // [B, K, 2]
  void* d_heatmaps;  // [B, K, H, W] contiguous
};

FK_CPU_KERNEL(soft_cpu, SoftArgs)
FK_CPU_KERNEL(soft_backward_cpu, SoftBackwardArgs)
FK_CPU_KERNEL(center_cpu, CenterArgs)
FK_CPU_KERNEL(center_backward_cpu, CenterBackwardArgs)
FK_CUDA_KERNEL(soft_cuda, SoftArgs);
FK_CUDA_KERNEL(soft_backward_cuda, SoftBackwardArgs);
FK_CUDA_KERNEL(center_cuda, CenterArgs);
FK_CUDA_KERNEL(center_backward_cuda, CenterBackwardArgs);

}  // namespace facekernels::soft_argmax
