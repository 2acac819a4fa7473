// A thread owns every element it writes, so sums need no atomics and have one order. The parts that
// do not depend on the maximum go through the workspace, computed once per sample.
#include "conv_pools/conv_pools.h"
#include "conv_pools/conv_pools_math.h"
#include "core/cuda_dtype.cuh"
#include "core/device.cuh"

namespace facekernels::conv_pools {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ bool within(int64_t i, int64_t size) {
  return i >= 0 && i < size;
}

__device__ __forceinline__ int64_t thread_index() {
  return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}

// workspace[b,k]: the mean patch.
template <class T>
__global__ void __launch_bounds__(kThreads) mean_patches(const WeightArgs args) {
  using A = Accumulate<T>;
  const Shape& s = args.shape;
  const int64_t index = thread_index();
  if (index >= s.batch * s.patch()) return;
  const int64_t k = index % s.patch(), tap = k % s.taps();
  const int64_t dy = offset_of(tap / s.kernel_width, s.kernel_height);
  const int64_t dx = offset_of(tap % s.kernel_width, s.kernel_width);
  const T* const x = static_cast<const T*>(args.x) + index / s.patch() * s.stride_batch +
                     k / s.taps() * s.stride_channel;
  const Span rows = inside(dy, s.height), columns = inside(dx, s.width);
  A sum = 0;
  for (int64_t y = rows.first + dy; y < rows.last + dy; ++y) {
    for (int64_t c = columns.first + dx; c < columns.last + dx; ++c) {
      sum += widen(x[y * s.stride_row + c * s.stride_column]);
    }
  }
  static_cast<A*>(args.workspace)[index] = sum / static_cast<A>(s.positions());
}

// One thread per weight.
template <class T>
__global__ void __launch_bounds__(kThreads) d_weight(const WeightArgs args) {
  using A = Accumulate<T>;
  const Shape& s = args.shape;
  const int64_t index = thread_index();
  if (index >= s.out_channels * s.patch()) return;
  const int64_t c = index / s.patch(), k = index % s.patch(), tap = k % s.taps();
  const int64_t dy = offset_of(tap / s.kernel_width, s.kernel_height);
  const int64_t dx = offset_of(tap % s.kernel_width, s.kernel_width);
  const T* x = static_cast<const T*>(args.x) + k / s.taps() * s.stride_channel;
  A sum = 0;
  for (int64_t b = 0; b < s.batch; ++b, x += s.stride_batch) {
    const int64_t at = b * s.out_channels + c;
    const int64_t p = args.argmax[at];
    const int64_t row = p / s.width + dy, column = p % s.width + dx;
    const A mean = static_cast<const A*>(args.workspace)[b * s.patch() + k];
    sum += static_cast<const A*>(args.d_mean)[at] * mean;
    const bool exists = within(row, s.height) && within(column, s.width);
    const A value = exists ? widen(x[row * s.stride_row + column * s.stride_column]) : A(0);
    sum += static_cast<const A*>(args.d_max)[at] * value;
  }
  static_cast<A*>(args.d_weight)[index] = sum;
}

// workspace[b,k]: what the means send to every patch.
template <class T>
__global__ void __launch_bounds__(kThreads) mean_gradients(const InputArgs args) {
  using A = Accumulate<T>;
  const Shape& s = args.shape;
  const int64_t index = thread_index();
  if (index >= s.batch * s.patch()) return;
  const A* const d_mean = static_cast<const A*>(args.d_mean) + index / s.patch() * s.out_channels;
  const T* w = static_cast<const T*>(args.weight) + index % s.patch();
  A sum = 0;
  for (int64_t c = 0; c < s.out_channels; ++c, w += s.patch()) sum += d_mean[c] * widen(*w);
  static_cast<A*>(args.workspace)[index] = sum / static_cast<A>(s.positions());
}

// One thread per element of the map; it visits the output channels whose maximum it is near.
template <class T>
__global__ void __launch_bounds__(kThreads) d_input(const InputArgs args) {
  using A = Accumulate<T>;
  const Shape& s = args.shape;
  const int64_t index = thread_index();
  if (index >= s.batch * s.in_channels * s.positions()) return;
  const int64_t q = index % s.positions(), i = index / s.positions() % s.in_channels;
  const int64_t b = index / s.positions() / s.in_channels;
  const int64_t y = q / s.width, x = q % s.width;
  const A* const everywhere = static_cast<const A*>(args.workspace) + b * s.patch() + i * s.taps();
  A sum = 0;
  for (int64_t tap = 0; tap < s.taps(); ++tap) {
    const int64_t dy = offset_of(tap / s.kernel_width, s.kernel_height);
    const int64_t dx = offset_of(tap % s.kernel_width, s.kernel_width);
    if (within(y - dy, s.height) && within(x - dx, s.width)) sum += everywhere[tap];
  }
  const T* w = static_cast<const T*>(args.weight) + i * s.taps();
  for (int64_t c = 0; c < s.out_channels; ++c, w += s.patch()) {
    const int64_t at = b * s.out_channels + c;
    const int64_t p = args.argmax[at];
    const int64_t row = y - p / s.width + s.kernel_height / 2;
    const int64_t column = x - p % s.width + s.kernel_width / 2;
    if (within(row, s.kernel_height) && within(column, s.kernel_width)) {
      sum += static_cast<const A*>(args.d_max)[at] * widen(w[row * s.kernel_width + column]);
    }
  }
  static_cast<T*>(args.d_input)[b * s.stride_batch + i * s.stride_channel + y * s.stride_row +
                                x * s.stride_column] = narrow_to<T>(sum);
}

template <class Kernel, class Args>
void run(const char* name, int64_t threads, Kernel kernel, const Args& args, Stream stream) {
  launch(name, blocks_for(threads, kThreads), kThreads, 0, stream, kernel, args);
}

}  // namespace

void d_weight_cuda(const WeightArgs& args, Stream stream) {
  const Shape& s = args.shape;
  dispatch_floating<__half, __nv_bfloat16>(args.dtype, [&]<class T>() {
    run("conv_pools::mean_patches", s.batch * s.patch(), mean_patches<T>, args, stream);
    run("conv_pools::d_weight", s.out_channels * s.patch(), d_weight<T>, args, stream);
  });
}

void d_input_cuda(const InputArgs& args, Stream stream) {
  const Shape& s = args.shape;
  dispatch_floating<__half, __nv_bfloat16>(args.dtype, [&]<class T>() {
    run("conv_pools::mean_gradients", s.batch * s.patch(), mean_gradients<T>, args, stream);
    run("conv_pools::d_input", s.batch * s.in_channels * s.positions(), d_input<T>, args, stream);
  });
}

}  // namespace facekernels::conv_pools
