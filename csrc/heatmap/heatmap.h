// Keypoints from heatmaps: one maximum per map, refined below the pixel. Each map is read once; a
// refinement looks at a window around the maximum.
//
// DARK and UDP take a Newton step on log(blurred map). Their published form blurs the whole map and
// scales it back to its old maximum; the logarithm turns that factor into a constant, which the
// derivatives do not see. So only the points of the step are blurred, unless a clamp before the
// logarithm can bite: then the factor is computed, still without storing a blurred map.
#pragma once

#include <cstdint>

#include "core/cpu_variant.h"
#include "core/cuda_kernel.h"
#include "core/tensor_view.h"
#include "heatmap/heatmap_rules.h"

namespace facekernels::heatmap {

inline constexpr int kMaxRadius = 32;  // of the blur: 65 taps

struct DecodeArgs {
  Method method;
  Compat compat;
  DType dtype;
  // [batch, joints * maps_per_joint, height, width]; a row is dense.
  const void* maps;
  int64_t batch, joints, maps_per_joint;
  int32_t height, width;
  int64_t stride_batch, stride_map, stride_row;
  int32_t kernel;    // taps of the blur, odd
  double threshold;  // a score must exceed it; -inf: none
  double invalid_x, invalid_y;
  double offset_scale;  // pixels per unit of an offset map
  bool clamp;           // results inside the map
  void* xy;             // [batch, joints, 2]; float, or double for double maps
  void* score;          // [batch, joints]; the same
  bool* valid;          // [batch, joints]
};

// Two one-dimensional maps per joint (SimCC).
struct SimccArgs {
  DType dtype;
  const void* x;  // [batch, joints, width], a row is dense
  const void* y;  // [batch, joints, height]
  int64_t batch, joints;
  int32_t width, height;
  int64_t x_stride_batch, x_stride_joint, y_stride_batch, y_stride_joint;
  bool dark;
  bool exact;  // compat: a NaN is the maximum, joints without one are at -1 / split, no clamps
  int32_t kernel;
  double split;  // bins per pixel
  double threshold, invalid_x, invalid_y;
  bool clamp;
  void* xy;
  void* score;
  bool* valid;
};

FK_CPU_KERNEL(decode_cpu, DecodeArgs)
FK_CPU_KERNEL(simcc_cpu, SimccArgs)
FK_CUDA_KERNEL(decode_cuda, DecodeArgs);
FK_CUDA_KERNEL(simcc_cuda, SimccArgs);

}  // namespace facekernels::heatmap
