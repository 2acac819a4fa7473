// A warp per row and run of features.
#include "core/cuda_dtype.cuh"
#include "core/device.cuh"
#include "linkage/linkage.h"
#include "linkage/linkage_math.h"

namespace facekernels::linkage {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

template <class T, int kPack>
struct alignas(sizeof(T) * kPack) Pack {
  T value[kPack];
};

template <class T, int kPack>
__device__ __forceinline__ Pack<T, kPack> pack_at(const void* base, int64_t offset) {
  return *reinterpret_cast<const Pack<T, kPack>*>(static_cast<const T*>(base) + offset);
}

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
    const Pack<T, kPack> x = pack_at<T, kPack>(args.other, from * args.other_stride + f);
    FK_UNROLL
    for (int i = 0; i < kPack; ++i) sums[i] += widen(x.value[i]);
  }
  const A factor = mean_factor<A>(end - begin);
  const Pack<T, kPack> own =
      pack_at<T, kPack>(args.own, source_of(args, row) * args.own_stride + f);
  const Pack<T, kPack> shift =
      pack_at<T, kPack>(args.shift, group_of(args, row) * args.features + f);
  Pack<T, kPack> result;
  FK_UNROLL
  for (int i = 0; i < kPack; ++i) {
    const A total = widen(own.value[i]) + sums[i] * factor + widen(shift.value[i]);
    result.value[i] = narrow_to<T>(total > A(0) ? total : A(0));
  }
  *reinterpret_cast<Pack<T, kPack>*>(static_cast<T*>(args.out) + row * args.features + f) = result;
}

}  // namespace

void combine_cuda(const CombineArgs& args, Stream stream) {
  dispatch_floating<__half, __nv_bfloat16>(args.dtype, [&]<class T>() {
    constexpr int kPack = 16 / static_cast<int>(sizeof(T));
    const auto aligned = [](const void* p, int64_t stride) {
      return reinterpret_cast<uintptr_t>(p) % 16 == 0 && stride % kPack == 0;
    };
    const bool packed = aligned(args.own, args.own_stride) &&
                        aligned(args.other, args.other_stride) &&
                        aligned(args.shift, args.features) && aligned(args.out, args.features);
    const int64_t per_warp = 32 * (packed ? kPack : 1);
    dim3 grid = blocks_for(args.rows, kWarps);
    grid.y = static_cast<unsigned>((args.features + per_warp - 1) / per_warp);
    launch("linkage::combine", grid, kThreads, 0, stream,
           packed ? combine<T, kPack> : combine<T, 1>, args);
  });
}

}  // namespace facekernels::linkage
