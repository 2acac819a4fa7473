// Consistency of class activation maps under a horizontal flip. With features F of an image, F' of
// its mirror image, a classifier W [K, C] and m(p) the mirrored position in p's row:
//
//   r[b,k,p]   = sum_c W_kc (F_bcp - F'_bcm(p))       CAM of F minus the flipped CAM of F'
//   l[b,k]     = mean_p r[b,k,p]^2
//   loss       = mean_b sum_k w_k l[b,k]              per_class[k] = mean_b l[b,k]
//
// Backward, with g[b,k,p] = s[b,k] r[b,k,p] (s: coefficient() of attention_consistency_math.h):
//   dF_bcp     = sum_k W_kc g[b,k,p]                  dF'_bcm(p) = -dF_bcp
//
// Both are linear in the maps, so r is all that the second needs of the first. The difference comes
// before the sum: two nearly equal CAMs would cancel after it.
#pragma once

#include <cstdint>

#include "core/cpu_variant.h"
#include "core/cuda_kernel.h"
#include "core/host_device.h"
#include "core/tensor_view.h"

namespace facekernels::attention_consistency {

// Positions whose squares one block of a CUDA kernel adds up.
inline constexpr int64_t kTile = 16;

// An image is dense [C, H, W], or [H, W, C] with channels_last; images may be apart.
struct Shape {
  int64_t batch, channels, height, width, classes;
  bool channels_last;

  FK_HOST_DEVICE int64_t positions() const { return height * width; }
  FK_HOST_DEVICE int64_t size() const { return channels * height * width; }
  FK_HOST_DEVICE int64_t tiles() const { return (positions() + kTile - 1) / kTile; }
};

// Everything but the maps is float, or double when the maps are.
struct ForwardArgs {
  Shape shape;
  DType dtype;  // of the maps
  int64_t features_stride, flipped_stride;
  const void* features;
  const void* flipped;
  const void* weight;         // [K, C]
  const void* class_weights;  // [K], or null for 1
  void* residual;             // [B, K, P]
  // Null where only the residual is wanted.
  void* squares;    // [B, tiles, K] workspace of the CUDA kernels
  void* loss;       // one number, or [B]
  void* per_class;  // [K], or [B, K]
  bool per_sample;  // the second of these, without the mean over the batch
};

struct BackwardArgs {
  Shape shape;
  DType dtype;
  const void* residual;       // [B, K, P]
  const void* weight;         // [K, C]
  const void* class_weights;  // [K], or null for 1
  // As loss and per_class, or null for 0; both null: the residual is g itself.
  const void* d_loss;
  const void* d_class;
  bool per_sample;
  // Dense [C, H, W] or [H, W, C] images; null where not wanted.
  void* d_features;
  void* d_flipped;
};

FK_CPU_KERNEL(forward_cpu, ForwardArgs)
FK_CPU_KERNEL(backward_cpu, BackwardArgs)
FK_CUDA_KERNEL(forward_cuda, ForwardArgs);
FK_CUDA_KERNEL(backward_cuda, BackwardArgs);

}  // namespace facekernels::attention_consistency
