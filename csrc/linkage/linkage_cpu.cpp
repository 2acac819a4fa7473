// Row by row, in blocks of features whose sums stay in registers while the neighbours pass.
#include "core/parallel.h"
#include "core/simd.h"
#include "core/simd_run.h"
#include "linkage/linkage.h"
#include "linkage/linkage_math.h"

namespace facekernels::linkage::FK_CPU_VARIANT {
namespace {

using namespace facekernels::FK_CPU_VARIANT;

// Vectors of a block: half of the registers.
#if defined(__AVX512F__)
constexpr int kBlock = 16;
#else
constexpr int kBlock = 8;
#endif
constexpr int64_t kAhead = 4;  // neighbours: rows lie anywhere, which hardware does not foresee

template <class A>
Vec<A> relu(Vec<A> x) {
  return x > 0 ? x : Vec<A>{};
}

template <class T>
void prefetch(const T* x) {
  constexpr int kBytes = kBlock * kLanes<Accumulate<T>> * static_cast<int>(sizeof(T));
#pragma GCC unroll 16
  for (int byte = 0; byte < kBytes; byte += 64) {
    __builtin_prefetch(reinterpret_cast<const char*>(x) + byte);
  }
}

template <class T>
void combine(const CombineArgs& args, int64_t row) {
  using A = Accumulate<T>;
  constexpr int kWidth = kLanes<A>;
  const int64_t begin = args.indptr[row], end = args.indptr[row + 1];
  const A factor = mean_factor<A>(end - begin);
  const T* const own = static_cast<const T*>(args.own) + source_of(args, row) * args.own_stride;
  const T* const other = static_cast<const T*>(args.other);
  const T* const shift = static_cast<const T*>(args.shift) + group_of(args, row) * args.features;
  T* const out = static_cast<T*>(args.out) + row * args.features;
  int64_t f = 0;
  for (; f + kBlock * kWidth <= args.features; f += kBlock * kWidth) {
    Vec<A> sums[kBlock] = {};
    for (int64_t e = begin; e < end; ++e) {
      if (e + kAhead < end) {
        prefetch(other + source_of(args, args.indices[e + kAhead]) * args.other_stride + f);
      }
      const T* const x = other + source_of(args, args.indices[e]) * args.other_stride + f;
#pragma GCC unroll 16
      for (int v = 0; v < kBlock; ++v) sums[v] += load(x + v * kWidth);
    }
    for (int v = 0; v < kBlock; ++v) {
      const int64_t at = f + v * kWidth;
      store(out + at, relu<A>(load(own + at) + sums[v] * factor + load(shift + at)));
    }
  }
  for_each_vector<A>(args.features - f, [&](int64_t j, auto full, int64_t count) {
    Vec<A> sum{};
    for (int64_t e = begin; e < end; ++e) {
      const T* const x = other + source_of(args, args.indices[e]) * args.other_stride + f + j;
      sum += load_lanes(x, full, count);
    }
    const Vec<A> total = load_lanes(own + f + j, full, count) + sum * factor +
                         load_lanes(shift + f + j, full, count);
    store_lanes(out + f + j, relu<A>(total), full, count);
  });
}

}  // namespace

void combine_cpu(const CombineArgs& args) {
  dispatch_floating<Half, BFloat16>(args.dtype, [&]<class T>() {
    const int64_t edges = args.indptr[args.rows];
    const int64_t cost = args.features * (1 + edges / std::max<int64_t>(args.rows, 1));
    parallel_for(args.rows, cost, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) combine<T>(args, row);
    });
  });
}

}  // namespace facekernels::linkage::FK_CPU_VARIANT
