// Attention maps of gradients g [B, C, P], P = H W positions.
//
//   absmax   map_p = max_c |g_cp|          abssum   map_p = sum_c |g_cp|
//   l2       map_p = sqrt(sum_c g_cp^2)
//   gradcam  map_p = relu(sum_c w_c f_cp), w_c = mean_p g_cp, with features f
//
// Forward reads g (and f) once. Backward, with d the gradient of the map:
//   absmax   dg_cp = d_p sign(g_cp) at the first channel of the maximum
//   abssum   dg_cp = d_p sign(g_cp)
//   l2       dg_cp = d_p g_cp / map_p, 0 where map_p = 0
//   gradcam  df_cp = w_c s_p, dg_cp = (sum_q f_cq s_q) / P, s_p = d_p [map_p > 0]
#pragma once

#include <cstdint>

#include "core/cpu_variant.h"
#include "core/cuda_kernel.h"
#include "core/host_device.h"
#include "core/tensor_view.h"

namespace facekernels::gradient_attention {

enum class Reduce : int { kAbsMax, kAbsSum, kL2, kGradCam };

// An image is dense [C, P], or [P, C] with channels_last; images may be apart.
struct Shape {
  int64_t batch, channels, positions;
  int64_t grad_stride, feature_stride;
  bool channels_last;  // the forward of gradcam only

  FK_HOST_DEVICE int64_t size() const { return channels * positions; }
};

// The map and the weights are float, or double when the gradients are.
struct ForwardArgs {
  Shape shape;
  DType dtype;
  Reduce reduce;
  const void* grad;
  const void* features;  // gradcam, else null
  void* map;             // [B, P]
  void* weights;         // [B, C] gradcam, else null
};

struct BackwardArgs {
  Shape shape;
  DType dtype;
  Reduce reduce;
  const void* grad;
  const void* features;
  const void* map;
  const void* weights;
  const void* d_map;  // [B, P]
  void* d_grad;       // [B, C, P] contiguous
  void* d_features;   // gradcam, else null
};

FK_CPU_KERNEL(forward_cpu, ForwardArgs)
FK_CPU_KERNEL(backward_cpu, BackwardArgs)
FK_CUDA_KERNEL(forward_cuda, ForwardArgs);
FK_CUDA_KERNEL(backward_cuda, BackwardArgs);

}  // namespace facekernels::gradient_attention
