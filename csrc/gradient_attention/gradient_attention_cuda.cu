// A thread per position walks the channels, so loads are coalesced along the map. Grad-CAM takes a
// warp per channel for the weights and then 32 positions x kGroups groups of channels per block for
// the map. See gradient_attention.h.
#include "core/cuda_dtype.cuh"
#include "core/device.cuh"
#include "gradient_attention/gradient_attention.h"
#include "gradient_attention/gradient_attention_math.h"

namespace facekernels::gradient_attention {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kGroups = kWarps;

template <class T, Reduce kReduce>
__global__ void __launch_bounds__(kThreads) forward(const ForwardArgs args) {
  using A = Accumulate<T>;
  const Shape& shape = args.shape;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= shape.batch * shape.positions) return;
  const int64_t b = item / shape.positions, p = item - b * shape.positions;
  const T* const grad = static_cast<const T*>(args.grad) + b * shape.grad_stride + p;
  A result = A(0);
#pragma unroll 4
  for (int64_t c = 0; c < shape.channels; ++c) {
    const A g = widen(grad[c * shape.positions]);
    if constexpr (kReduce == Reduce::kAbsMax) {
      const A v = magnitude(g);
      result = replaces(v, result) ? v : result;
    } else if constexpr (kReduce == Reduce::kAbsSum) {
      result += magnitude(g);
    } else {
      result += g * g;
    }
  }
  static_cast<A*>(args.map)[item] = kReduce == Reduce::kL2 ? sqrt(result) : result;
}

// Of each aligned group of kLanes lanes.
template <int kLanes = 32, class A>
__device__ __forceinline__ A sum_of_lanes(A sum) {
  FK_UNROLL
  for (int offset = kLanes / 2; offset > 0; offset /= 2) {
    sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  }
  return sum;
}

// kLanes lanes per row [P] of one channel: 8 lanes of float read whole sectors, so short rows waste
// no lane.
template <class T, int kLanes>
__global__ void __launch_bounds__(kThreads) channel_weights(const ForwardArgs args) {
  using A = Accumulate<T>;
  const Shape& shape = args.shape;
  const int lane = threadIdx.x % kLanes;
  const int64_t wanted = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kLanes;
  const int64_t count = shape.batch * shape.channels;
  // Lanes without a row of their own repeat the last one and write nothing.
  const int64_t row = wanted < count ? wanted : count - 1;
  const T* const grad = static_cast<const T*>(args.grad) +
                        row / shape.channels * shape.grad_stride +
                        row % shape.channels * shape.positions;
  A sum = A(0);
#pragma unroll 4
  for (int64_t p = lane; p < shape.positions; p += kLanes) sum += widen(grad[p]);
  sum = sum_of_lanes<kLanes>(sum);
  if (lane == 0 && wanted < count) {
    static_cast<A*>(args.weights)[row] = sum / static_cast<A>(shape.positions);
  }
}

// The sums that a lane has in the groups of its block, added in order; complete in group 0.
template <class A>
__device__ __forceinline__ A sum_of_groups(A (&parts)[kGroups][32], A sum) {
  const int lane = threadIdx.x % 32, group = threadIdx.x / 32;
  parts[group][lane] = sum;
  __syncthreads();
  if (group != 0) return sum;
  A total = A(0);
  FK_UNROLL
  for (int i = 0; i < kGroups; ++i) total += parts[i][lane];
  return total;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    gradcam(const ForwardArgs args, const int64_t tiles_per_image) {
  using A = Accumulate<T>;
  FK_SHARED(A, parts, [kGroups][32]);
  const Shape& shape = args.shape;
  const int lane = threadIdx.x % 32, group = threadIdx.x / 32;
  const int64_t b = blockIdx.x / tiles_per_image;
  const int64_t p = blockIdx.x % tiles_per_image * 32 + lane;
  const bool inside = p < shape.positions;
  const T* const features =
      static_cast<const T*>(args.features) + b * shape.feature_stride + (inside ? p : 0);
  const A* const weights = static_cast<const A*>(args.weights) + b * shape.channels;
  A sum = A(0);
#pragma unroll 4
  for (int64_t c = group; c < shape.channels; c += kGroups) {
    sum += weights[c] * widen(features[c * shape.positions]);
  }
  sum = sum_of_groups(parts, sum);
  if (group == 0 && inside) static_cast<A*>(args.map)[b * shape.positions + p] = relu(sum);
}

// channels_last: a lane per channel and kGroups groups of positions for the weights, a warp per
// position for the map.
template <class T>
__global__ void __launch_bounds__(kThreads)
    column_weights(const ForwardArgs args, const int64_t tiles_per_image) {
  using A = Accumulate<T>;
  FK_SHARED(A, parts, [kGroups][32]);
  const Shape& shape = args.shape;
  const int lane = threadIdx.x % 32, group = threadIdx.x / 32;
  const int64_t b = blockIdx.x / tiles_per_image;
  const int64_t c = blockIdx.x % tiles_per_image * 32 + lane;
  const bool inside = c < shape.channels;
  const T* const grad = static_cast<const T*>(args.grad) + b * shape.grad_stride + (inside ? c : 0);
  A sum = A(0);
#pragma unroll 4
  for (int64_t p = group; p < shape.positions; p += kGroups) {
    sum += widen(grad[p * shape.channels]);
  }
  sum = sum_of_groups(parts, sum);
  if (group == 0 && inside) {
    static_cast<A*>(args.weights)[b * shape.channels + c] = sum / static_cast<A>(shape.positions);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) gradcam_of_rows(const ForwardArgs args) {
  using A = Accumulate<T>;
  const Shape& shape = args.shape;
  const int lane = threadIdx.x % 32;
  const int64_t wanted = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  const int64_t count = shape.batch * shape.positions;
  const int64_t item = wanted < count ? wanted : count - 1;
  const int64_t b = item / shape.positions, p = item - b * shape.positions;
  const T* const features =
      static_cast<const T*>(args.features) + b * shape.feature_stride + p * shape.channels;
  const A* const weights = static_cast<const A*>(args.weights) + b * shape.channels;
  A sum = A(0);
#pragma unroll 4
  for (int64_t c = lane; c < shape.channels; c += 32) sum += weights[c] * widen(features[c]);
  sum = sum_of_lanes(sum);
  if (lane == 0 && wanted < count) static_cast<A*>(args.map)[item] = relu(sum);
}

template <class T, Reduce kReduce>
__global__ void __launch_bounds__(kThreads) backward(const BackwardArgs args) {
  using A = Accumulate<T>;
  const Shape& shape = args.shape;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= shape.batch * shape.positions) return;
  const int64_t b = item / shape.positions, p = item - b * shape.positions;
  const T* const grad = static_cast<const T*>(args.grad) + b * shape.grad_stride + p;
  T* const d_grad = static_cast<T*>(args.d_grad) + b * shape.size() + p;
  const A d = static_cast<const A*>(args.d_map)[item];
  int64_t chosen = 0;
  if constexpr (kReduce == Reduce::kAbsMax) {
    A best = A(-1);
#pragma unroll 4
    for (int64_t c = 0; c < shape.channels; ++c) {
      const A v = magnitude(widen(grad[c * shape.positions]));
      if (replaces(v, best)) {
        best = v;
        chosen = c;
      }
    }
  }
  A map = A(0);
  if constexpr (kReduce == Reduce::kL2) map = static_cast<const A*>(args.map)[item];
#pragma unroll 4
  for (int64_t c = 0; c < shape.channels; ++c) {
    const A g = widen(grad[c * shape.positions]);
    A value;
    if constexpr (kReduce == Reduce::kAbsMax) {
      value = c == chosen ? d * sign(g) : A(0);
    } else if constexpr (kReduce == Reduce::kAbsSum) {
      value = d * sign(g);
    } else {
      value = map == A(0) ? A(0) : d * g / map;
    }
    d_grad[c * shape.positions] = narrow_to<T>(value);
  }
}

// A warp per row: the dot product with the features is the same for the whole row of d_grad.
template <class T>
__global__ void __launch_bounds__(kThreads) gradcam_backward(const BackwardArgs args) {
  using A = Accumulate<T>;
  const Shape& shape = args.shape;
  const int lane = threadIdx.x % 32;
  const int64_t wanted = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  const int64_t count = shape.batch * shape.channels;
  const bool mine = wanted < count;
  const int64_t row = mine ? wanted : count - 1;
  const int64_t b = row / shape.channels;
  const T* const features = static_cast<const T*>(args.features) + b * shape.feature_stride +
                            row % shape.channels * shape.positions;
  const A* const map = static_cast<const A*>(args.map) + b * shape.positions;
  const A* const d_map = static_cast<const A*>(args.d_map) + b * shape.positions;
  const A weight = static_cast<const A*>(args.weights)[row];
  T* const d_features = static_cast<T*>(args.d_features) + row * shape.positions;
  T* const d_grad = static_cast<T*>(args.d_grad) + row * shape.positions;
  A dot = A(0);
#pragma unroll 2
  for (int64_t p = lane; p < shape.positions; p += 32) {
    const A s = map[p] > A(0) ? d_map[p] : A(0);
    dot += widen(features[p]) * s;
    if (mine) d_features[p] = narrow_to<T>(weight * s);
  }
  dot = sum_of_lanes(dot);
  const T value = narrow_to<T>(dot / static_cast<A>(shape.positions));
  if (mine) {
    for (int64_t p = lane; p < shape.positions; p += 32) d_grad[p] = value;
  }
}

template <class T, Reduce kReduce>
void launch_forward(const ForwardArgs& args, Stream stream) {
  launch("gradient_attention::forward",
         blocks_for(args.shape.batch * args.shape.positions, kThreads), kThreads, 0, stream,
         forward<T, kReduce>, args);
}

template <class T, Reduce kReduce>
void launch_backward(const BackwardArgs& args, Stream stream) {
  launch("gradient_attention::backward",
         blocks_for(args.shape.batch * args.shape.positions, kThreads), kThreads, 0, stream,
         backward<T, kReduce>, args);
}

}  // namespace

void forward_cuda(const ForwardArgs& args, Stream stream) {
  const Shape& shape = args.shape;
  dispatch_floating<__half, __nv_bfloat16>(args.dtype, [&]<class T>() {
    switch (args.reduce) {
      case Reduce::kAbsMax: return launch_forward<T, Reduce::kAbsMax>(args, stream);
      case Reduce::kAbsSum: return launch_forward<T, Reduce::kAbsSum>(args, stream);
      case Reduce::kL2: return launch_forward<T, Reduce::kL2>(args, stream);
      case Reduce::kGradCam: break;
    }
    if (shape.channels_last) {
      const int64_t tiles = (shape.channels + 31) / 32;
      launch("gradient_attention::column_weights", blocks_for(shape.batch * tiles, 1), kThreads, 0,
             stream, column_weights<T>, args, tiles);
      launch("gradient_attention::gradcam_of_rows",
             blocks_for(shape.batch * shape.positions * 32, kThreads), kThreads, 0, stream,
             gradcam_of_rows<T>, args);
      return;
    }
    const bool is_short = shape.positions <= 64;
    launch("gradient_attention::channel_weights",
           blocks_for(shape.batch * shape.channels * (is_short ? 8 : 32), kThreads), kThreads, 0,
           stream, is_short ? channel_weights<T, 8> : channel_weights<T, 32>, args);
    const int64_t tiles = (shape.positions + 31) / 32;
    launch("gradient_attention::gradcam", blocks_for(shape.batch * tiles, 1), kThreads, 0, stream,
           gradcam<T>, args, tiles);
  });
}

void backward_cuda(const BackwardArgs& args, Stream stream) {
  dispatch_floating<__half, __nv_bfloat16>(args.dtype, [&]<class T>() {
    switch (args.reduce) {
      case Reduce::kAbsMax: return launch_backward<T, Reduce::kAbsMax>(args, stream);
      case Reduce::kAbsSum: return launch_backward<T, Reduce::kAbsSum>(args, stream);
      case Reduce::kL2: return launch_backward<T, Reduce::kL2>(args, stream);
      case Reduce::kGradCam: break;
    }
    launch("gradient_attention::gradcam_backward",
           blocks_for(args.shape.batch * args.shape.channels * 32, kThreads), kThreads, 0, stream,
           gradcam_backward<T>, args);
  });
}

}  // namespace facekernels::gradient_attention
