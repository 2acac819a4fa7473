// A warp per row and run of features.
#include "core/cuda_dtype.cuh"
#include "core/device.cuh"
#include "core/pack.cuh"
#include "linkage/linkage.h"
#include "linkage/linkage_math.h"

namespace facekernels::linkage {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

template <class T, int kPack>
__global__ void __launch_bounds__(kThreads, 1) combine(const CombineArgs args) {
  using A = Accumulate<T>;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t row = blockIdx.x * int64_t{kWarps} + warp;
  const int64_t f = (blockIdx.y * int64_t{32} + lane) * kPack;
  if (row >= args.rows || f >= args.features) return;
  const int64_t begin = args.indptr[row], end = args.indptr[row + 1];
  A sums[kPack] = {};
  for (int64_t e = begin; e < end; ++e) {
    const int64_t from = source_of(args, args.indices[e]);
    const Pack<T, kPack> x = load_pack<T, kPack>(args.other, from * args.other_stride + f);
    FK_UNROLL
    for (int i = 0; i < kPack; ++i) sums[i] += widen(x.values[i]);
  }
  const A factor = mean_factor<A>(end - begin);
  const Pack<T, kPack> own =
      load_pack<T, kPack>(args.own, source_of(args, row) * args.own_stride + f);
  const Pack<T, kPack> shift =
      load_pack<T, kPack>(args.shift, group_of(args, row) * args.features + f);
  Pack<T, kPack> result;
  FK_UNROLL
  for (int i = 0; i < kPack; ++i) {
    const A total = widen(own.values[i]) + sums[i] * factor + widen(shift.values[i]);
    result.values[i] = narrow_to<T>(total > A(0) ? total : A(0));
  }
  store_pack(args.out, row * args.features + f, result);
}

}  // namespace

void combine_cuda(const CombineArgs& args, Stream stream) {
  dispatch_floating<__half, __nv_bfloat16>(args.dtype, [&]<class T>() {
    constexpr int kPack = 16 / static_cast<int>(sizeof(T));
    const bool packed = packable<T, kPack>(args.own, args.own_stride) &&
                        packable<T, kPack>(args.other, args.other_stride) &&
                        packable<T, kPack>(args.shift, args.features) &&
                        packable<T, kPack>(args.out, args.features);
    const int64_t per_warp = 32 * (packed ? kPack : 1);
    dim3 grid = blocks_for(args.rows, kWarps);
    grid.y = static_cast<unsigned>((args.features + per_warp - 1) / per_warp);
    launch("linkage::combine", grid, kThreads, 0, stream,
           packed ? combine<T, kPack> : combine<T, 1>, args);
  });
}

}  // namespace facekernels::linkage
