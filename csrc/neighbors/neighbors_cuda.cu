// A warp per row and run of features; edges in their order, so that sums need no atomics.
#include "core/cuda_dtype.cuh"
#include "core/device.cuh"
#include "core/pack.cuh"
#include "neighbors/neighbors.h"
#include "neighbors/neighbors_math.h"

namespace facekernels::neighbors {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

// kPack: elements that a lane loads at once, 16 bytes where rows are aligned to them.
template <class T, int kPack>
__global__ void __launch_bounds__(kThreads, 1) sum(const SumArgs args) {
  using A = Accumulate<T>;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t row = blockIdx.x * int64_t{kWarps} + warp;
  const int64_t feature = (blockIdx.y * int64_t{32} + lane) * kPack;
  if (row >= args.graph.rows || feature >= args.features) return;
  const T* const x = static_cast<const T*>(args.x) + feature;
  const int64_t begin = args.graph.indptr[row], end = args.graph.indptr[row + 1];
  A sums[kPack] = {};
  for (int64_t e = begin; e < end; ++e) {
    const int64_t index = args.graph.indices[e];
    const bool inside = index >= 0 && index < args.graph.sources;
    A weight = inside ? A(1) : static_cast<A>(NAN);
    if (inside && args.weighting == Weighting::kWeights) {
      weight = widen(static_cast<const T*>(args.weights)[e]);
    } else if (inside && args.weighting == Weighting::kSourceDegree) {
      weight = reciprocal<A>(args.degrees[index]);
    }
    const int64_t from = inside ? index : 0;
    Pack<T, kPack> values{};
    if (args.graph.sources > 0) values = load_pack<T, kPack>(x, from * args.features);
    FK_UNROLL
    for (int i = 0; i < kPack; ++i) sums[i] += weight * widen(values.values[i]);
  }
  const A factor = args.weighting == Weighting::kMean ? reciprocal<A>(end - begin) : A(1);
  Pack<T, kPack> result;
  FK_UNROLL
  for (int i = 0; i < kPack; ++i) result.values[i] = narrow_to<T>(sums[i] * factor);
  store_pack(args.out, row * args.features + feature, result);
}

template <class T>
__global__ void __launch_bounds__(kThreads, 1) dot(const DotArgs args) {
  using A = Accumulate<T>;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t row = blockIdx.x * int64_t{kWarps} + warp;
  if (row >= args.graph.rows) return;  // the whole warp
  const T* const a = static_cast<const T*>(args.a) + row * args.features;
  for (int64_t e = args.graph.indptr[row]; e < args.graph.indptr[row + 1]; ++e) {
    const int64_t index = args.graph.indices[e];
    const bool inside = index >= 0 && index < args.graph.sources;
    const T* const b = static_cast<const T*>(args.b) + (inside ? index : 0) * args.features;
    A total = inside ? A(0) : static_cast<A>(NAN);
    for (int64_t f = lane; inside && f < args.features; f += 32) total += widen(a[f]) * widen(b[f]);
    FK_UNROLL
    for (int offset = 16; offset > 0; offset /= 2) {
      total += __shfl_xor_sync(0xffffffffu, total, offset);
    }
    if (lane == 0) static_cast<T*>(args.out)[e] = narrow_to<T>(total);
  }
}

}  // namespace

void sum_cuda(const SumArgs& args, Stream stream) {
  dispatch_floating<__half, __nv_bfloat16>(args.dtype, [&]<class T>() {
    constexpr int kPack = 16 / static_cast<int>(sizeof(T));
    const bool packed =
        packable<T, kPack>(args.x, args.features) && packable<T, kPack>(args.out, args.features);
    const int64_t per_warp = 32 * (packed ? kPack : 1);
    dim3 grid = blocks_for(args.graph.rows, kWarps);
    grid.y = static_cast<unsigned>((args.features + per_warp - 1) / per_warp);
    launch("neighbors::sum", grid, kThreads, 0, stream, packed ? sum<T, kPack> : sum<T, 1>, args);
  });
}

void dot_cuda(const DotArgs& args, Stream stream) {
  dispatch_floating<__half, __nv_bfloat16>(args.dtype, [&]<class T>() {
    launch("neighbors::dot", blocks_for(args.graph.rows, kWarps), kThreads, 0, stream, dot<T>,
           args);
  });
}

}  // namespace facekernels::neighbors
