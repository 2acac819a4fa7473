// Stochastic gradient aggregation for universal perturbations.
//
//   apply      out[u,i] = (clamp(x[index[u,i]] + delta[u], 0, 1) - mean) / std
//   inner      g[u] = sum_i (grad[u,i] where 0 <= x[index[u,i]] + delta[u] <= 1 else 0) / (b std)
//              accumulator += g;  delta = clamp(delta + step sign(g), -epsilon, epsilon)
//   outer      s = sign(accumulator), or with a velocity
//              velocity = momentum velocity + accumulator / |accumulator|_1;  s = sign(velocity)
//              delta = clamp(delta + step s, -epsilon, epsilon);  accumulator = 0
//   aggregate  out = clamp(delta + step sign(sum_e w_e sum_m grads[e,m]), -epsilon, epsilon)
//
// Every sum runs over i (or m, then e) in order and every product and sum is rounded by itself, so
// all back ends give the same bits: the sign of a sum near 0 depends on them. The norm is summed as
// sga_math.h says. sign(0) and sign(NaN) are 0.
//
// A row outside [0, N) is refused on the CPU. A CUDA kernel cannot raise: there such an image is
// NaN.
#pragma once

#include <cstdint>

#include "core/cpu_variant.h"
#include "core/cuda_kernel.h"
#include "core/host_device.h"
#include "core/tensor_view.h"

namespace facekernels::sga {

// U perturbations of C channels with H W = plane values each.
struct Perturbations {
  int64_t count, channels, plane;

  FK_HOST_DEVICE int64_t size() const { return channels * plane; }
};

// The b images each perturbation is added to: rows of a set that all perturbations share.
struct Selection {
  DType dtype;  // uint8, or the dtype of delta
  const void* images;
  int64_t rows;
  int64_t stride;        // from row to row, in elements; an image itself is dense
  const int64_t* index;  // null: row i is image i
  int64_t index_stride;  // from perturbation to perturbation: b, or 0 for one index for all
  int64_t batch;

  FK_HOST_DEVICE int64_t row(int64_t perturbation, int64_t i) const {
    return index ? index[perturbation * index_stride + i] : i;
  }
};

// delta, accumulator, velocity, mean, std and weights are float, or double in a double precision
// call.
struct ApplyArgs {
  Perturbations shape;
  Selection selection;
  DType dtype;      // of delta
  DType out_dtype;  // that of delta, or float16 or bfloat16
  const void* delta;
  const void* mean;  // [C] or null
  const void* std;   // [C] or null
  void* out;         // [U, b, C, H, W]
};

struct InnerArgs {
  Perturbations shape;
  Selection selection;
  DType dtype;       // of delta
  DType grad_dtype;  // that of delta, or float16 or bfloat16
  double step, epsilon;
  const void* grad;  // [U, b, C, H, W] with gaps allowed between samples
  int64_t grad_stride_perturbation, grad_stride_sample;
  const void* std;  // [C] or null
  void* delta;
  void* accumulator;
};

struct OuterArgs {
  Perturbations shape;
  DType dtype;
  double step, epsilon, momentum;
  void* delta;
  void* accumulator;
  void* velocity;  // or null: no momentum
  void* partial;   // [U, ceil(C H W / kNormChunk)] workspace of the norm; or null
};

struct AggregateArgs {
  Perturbations shape;
  DType dtype;       // of delta
  DType grad_dtype;  // that of delta, or float16 or bfloat16
  double step, epsilon;
  int64_t ensemble, samples;
  const void* grads;  // [U, E, M, C, H, W]
  const void* delta;
  const void* weights;  // [E] or null
  void* out;
};

FK_CPU_KERNEL(apply_cpu, ApplyArgs)
FK_CPU_KERNEL(inner_cpu, InnerArgs)
FK_CPU_KERNEL(outer_cpu, OuterArgs)
FK_CPU_KERNEL(aggregate_cpu, AggregateArgs)
FK_CUDA_KERNEL(apply_cuda, ApplyArgs);
FK_CUDA_KERNEL(inner_cuda, InnerArgs);
FK_CUDA_KERNEL(outer_cuda, OuterArgs);
FK_CUDA_KERNEL(aggregate_cuda, AggregateArgs);

}  // namespace facekernels::sga
