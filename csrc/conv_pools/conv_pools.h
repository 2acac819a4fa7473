// Backward pass of a stride-1, zero-padded convolution that only its mean and maximum over the
// positions leave:
//
//   y[b,c,p] = sum_{i,t} w[c,i,t] x[b,i,p+t]     mean[b,c] = mean_p y     max[b,c] = max_p y
//
// The gradient at y is d_mean / P everywhere plus d_max at the position of the maximum, so of the P
// rows that every (b, c) takes part in, only two differ: the patch at the maximum and the mean
// patch.
//
//   patch[b,p,k] = x[b,i,p+t], k = (i,t)         mean_patch[b,k] = mean_p patch[b,p,k]
//   d_weight[c,k]    = sum_b d_mean[b,c] mean_patch[b,k] + d_max[b,c] patch[b,argmax[b,c],k]
//   d_patch[b,p,k]   = sum_c d_mean[b,c] w[c,k] / P + sum_{c: argmax[b,c] = p} d_max[b,c] w[c,k]
//   d_input[b,i,q]   = sum_t d_patch[b,q-t,(i,t)]
//
// That is 2 multiplications per weight and sample in place of P.
#pragma once

#include <cstdint>

#include "core/cpu_variant.h"
#include "core/cuda_kernel.h"
#include "core/host_device.h"
#include "core/tensor_view.h"

namespace facekernels::conv_pools {

// Kernel sizes are odd; offset 0 is the centre. Strides are those of the map [B, I, H, W].
struct Shape {
  int64_t batch, in_channels, out_channels, height, width, kernel_height, kernel_width;
  int64_t stride_batch, stride_channel, stride_row, stride_column;

  FK_HOST_DEVICE int64_t positions() const { return height * width; }
  FK_HOST_DEVICE int64_t taps() const { return kernel_height * kernel_width; }
  FK_HOST_DEVICE int64_t patch() const { return in_channels * taps(); }
};

// Gradients of the pools are float, or double when the map is.
struct WeightArgs {
  Shape shape;  // strides of x
  DType dtype;
  const void* d_mean;     // [B, O]
  const void* d_max;      // [B, O]
  const int32_t* argmax;  // [B, O]
  const void* x;
  void* workspace;  // CUDA: mean_patch [B, I * taps], dtype of d_mean; unused on the CPU
  void* d_weight;   // [O, I, kh, kw], dtype of d_mean
};

struct InputArgs {
  Shape shape;  // strides of d_input
  DType dtype;
  const void* d_mean;     // [B, O]
  const void* d_max;      // [B, O]
  const int32_t* argmax;  // [B, O]
  const void* weight;     // [O, I, kh, kw], dtype of d_input
  void* workspace;        // CUDA: sum_c d_mean w / P, [B, I * taps]; unused on the CPU
  void* d_input;
};

FK_CPU_KERNEL(d_weight_cpu, WeightArgs)
FK_CPU_KERNEL(d_input_cpu, InputArgs)
FK_CUDA_KERNEL(d_weight_cuda, WeightArgs);
FK_CUDA_KERNEL(d_input_cuda, InputArgs);

}  // namespace facekernels::conv_pools
