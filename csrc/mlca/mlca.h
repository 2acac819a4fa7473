// MLCA channel attention, folded.
//
//   mean[g,b,c] = mean_p x[g,b,c,p]          max[g,b,c] = max_p x[g,b,c,p]
//   scale = sigmoid(W2 (relu(W1 mean + b1) + relu(W1 max + b1)) + 2 b2)
//   out   = max_p  relu(scale * x_p) = scale * relu(max)             (pool = max)
//   out   = mean_p relu(scale * x_p) = scale * mean_p relu(x_p)      (pool = average)
//
// The identities hold because scale >= 0. So x is read once and nothing of its size is written; the
// backward pass through the pools writes dx and, for pool = max, reads nothing of its size.
#pragma once

#include <cstdint>

#include "core/cpu_variant.h"
#include "core/cuda_kernel.h"
#include "core/host_device.h"
#include "core/tensor_view.h"

namespace facekernels::mlca {

// x is [G, B, C, P] with any strides of which position or channel is 1 (NCHW or channels_last).
struct MapLayout {
  int64_t groups, batch, channels, positions;
  int64_t stride_group, stride_batch, stride_channel, stride_position;

  FK_HOST_DEVICE int64_t rows() const { return groups * batch * channels; }
};

struct ForwardArgs {
  MapLayout layout;
  DType dtype;
  int64_t hidden;
  bool average;     // pool = average
  bool pools_only;  // mean, max and argmax; nothing of the gate is read or written
  const void* x;
  // Weights, statistics and scale are float, or double when x is.
  const void* w1;   // [G, R, C]
  const void* b1;   // [G, R]
  const void* w2;   // [G, C, R]
  const void* b2;   // [G, C]
  void* out;        // [G, B, C], dtype of x
  void* scale;      // [G, B, C]
  void* mean;       // [G, B, C]
  void* max;        // [G, B, C]
  void* relu_mean;  // [G, B, C]; only for pool = average
  int32_t* argmax;  // [G, B, C], lowest index among equal maxima; null where no gradient follows
  void* pre;        // [G, B, 2, R]: W1 mean + b1, then W1 max + b1
};

// Gradients of the gate and of what it pools. With pooled = relu(max) or, for pool = average,
// relu_mean, and pre one of the two paths:
//
//   dz     = (d_out pooled + d_scale) scale (1 - scale)      d_pre = (dz W2) [pre > 0]
//   d_mean = d_pre_mean W1         d_max = d_pre_max W1 + d_out scale [max > 0]   (pool = max)
//   dW1    = d_pre_mean^T mean + d_pre_max^T max             db1 = sum_b d_pre_mean + d_pre_max
//   dW2    = dz^T (relu(pre_mean) + relu(pre_max))           db2 = 2 sum_b dz
//
// With pool = average d_max has the first term only, and d_relu_mean = d_out scale.
struct GateBackwardArgs {
  int64_t groups, batch, channels, hidden;
  DType dtype;  // of d_out; everything else is float, or double when d_out is
  bool average;
  const void* d_out;    // [G, B, C] or null
  const void* d_scale;  // [G, B, C] or null
  const void *w1, *w2;  // as forward
  const void *scale, *mean, *max;
  const void* relu_mean;  // only for pool = average
  const void* pre;        // [G, B, 2, R], as forward
  // Workspace.
  void* dz;     // [G, B, C]
  void* d_pre;  // [G, B, 2, R]
  // Null where the map's gradient is not wanted; d_relu_mean also for pool = max.
  void *d_mean, *d_max, *d_relu_mean;
  // Null where the weights' gradients are not wanted.
  void *dw1, *db1, *dw2, *db2;
};

// dx_p = d_mean / P + d_max [p = argmax] + d_relu_mean / P [x_p > 0]
struct BackwardArgs {
  MapLayout layout;  // of dx, and of x where it is given
  DType dtype;
  const void* d_mean;       // [G, B, C]
  const void* d_max;        // [G, B, C]
  const int32_t* argmax;    // [G, B, C]
  const void* d_relu_mean;  // [G, B, C] or null
  const void* x;            // or null; same strides as dx
  void* dx;
};

FK_CPU_KERNEL(forward_cpu, ForwardArgs)
FK_CPU_KERNEL(gate_backward_cpu, GateBackwardArgs)
FK_CPU_KERNEL(backward_cpu, BackwardArgs)
FK_CUDA_KERNEL(forward_cuda, ForwardArgs);
FK_CUDA_KERNEL(gate_backward_cuda, GateBackwardArgs);
FK_CUDA_KERNEL(backward_cuda, BackwardArgs);

}  // namespace facekernels::mlca
