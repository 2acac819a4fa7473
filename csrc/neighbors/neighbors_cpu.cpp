// Row by row, in blocks of features whose sums stay in registers while the neighbours pass.
#include <algorithm>

#include "core/parallel.h"
#include "core/simd.h"
#include "core/simd_run.h"
#include "neighbors/neighbors.h"
#include "neighbors/neighbors_math.h"

namespace facekernels::neighbors::FK_CPU_VARIANT {
namespace {

using namespace facekernels::FK_CPU_VARIANT;

// Vectors of a block: half of the registers.
#if defined(__AVX512F__)
constexpr int kBlock = 16;
#else
constexpr int kBlock = 8;
#endif
constexpr int64_t kAhead = 4;  // neighbours: rows lie anywhere, which hardware does not foresee

template <class T>
class Sum {
  using A = Accumulate<T>;
  static constexpr int kWidth = kLanes<A>;

 public:
  explicit Sum(const SumArgs& args)
      : args_(args), x_(static_cast<const T*>(args.x)), out_(static_cast<T*>(args.out)) {}

  void operator()(int64_t row) const {
    const int64_t begin = args_.graph.indptr[row], end = args_.graph.indptr[row + 1];
    const A factor = args_.weighting == Weighting::kMean ? reciprocal<A>(end - begin) : A(1);
    T* const out = out_ + row * args_.features;
    int64_t f = 0;
    for (; f + kBlock * kWidth <= args_.features; f += kBlock * kWidth) {
      Vec<A> sums[kBlock] = {};
      for (int64_t e = begin; e < end; ++e) {
        if (e + kAhead < end) prefetch(x_ + args_.graph.indices[e + kAhead] * args_.features + f);
        const Vec<A> weight = splat(weight_of(e));
        const T* const x = x_ + args_.graph.indices[e] * args_.features + f;
#pragma GCC unroll 16
        for (int v = 0; v < kBlock; ++v) sums[v] += weight * load(x + v * kWidth);
      }
      for (int v = 0; v < kBlock; ++v) store(out + f + v * kWidth, sums[v] * factor);
    }
    for_each_vector<A>(args_.features - f, [&](int64_t j, auto full, int64_t count) {
      Vec<A> sum{};
      for (int64_t e = begin; e < end; ++e) {
        const T* const x = x_ + args_.graph.indices[e] * args_.features + f + j;
        sum += weight_of(e) * load_lanes(x, full, count);
      }
      store_lanes(out + f + j, sum * factor, full, count);
    });
  }

 private:
  static void prefetch(const T* x) {
#pragma GCC unroll 16
    for (int byte = 0; byte < kBlock * kWidth * static_cast<int>(sizeof(T)); byte += 64) {
      __builtin_prefetch(reinterpret_cast<const char*>(x) + byte);
    }
  }

  A weight_of(int64_t e) const {
    switch (args_.weighting) {
      case Weighting::kWeights: return static_cast<A>(static_cast<const T*>(args_.weights)[e]);
      case Weighting::kSourceDegree: return reciprocal<A>(args_.degrees[args_.graph.indices[e]]);
      default: return A(1);
    }
  }

  const SumArgs& args_;
  const T* x_;
  T* out_;
};

template <class T>
Accumulate<T> dot(const T* a, const T* b, int64_t count) {
  using A = Accumulate<T>;
  Vec<A> sum{};
  for_each_vector<A>(count, [&](int64_t j, auto full, int64_t lanes) {
    sum += load_lanes(a + j, full, lanes) * load_lanes(b + j, full, lanes);
  });
  return reduce(sum, [](auto x, auto y) { return x + y; });
}

}  // namespace

void sum_cpu(const SumArgs& args) {
  dispatch_floating<Half, BFloat16>(args.dtype, [&]<class T>() {
    const Sum<T> sum(args);
    const int64_t edges = args.graph.indptr[args.graph.rows];
    const int64_t cost = args.features * (1 + edges / std::max<int64_t>(args.graph.rows, 1));
    parallel_for(args.graph.rows, cost, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) sum(row);
    });
  });
}

void dot_cpu(const DotArgs& args) {
  dispatch_floating<Half, BFloat16>(args.dtype, [&]<class T>() {
    const T* const a = static_cast<const T*>(args.a);
    const T* const b = static_cast<const T*>(args.b);
    T* const out = static_cast<T*>(args.out);
    const int64_t edges = args.graph.indptr[args.graph.rows];
    const int64_t cost = args.features * (1 + edges / std::max<int64_t>(args.graph.rows, 1));
    parallel_for(args.graph.rows, cost, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        for (int64_t e = args.graph.indptr[row]; e < args.graph.indptr[row + 1]; ++e) {
          const T* const other = b + args.graph.indices[e] * args.features;
          out[e] = narrow<T>(dot(a + row * args.features, other, args.features));
        }
      }
    });
  });
}

}  // namespace facekernels::neighbors::FK_CPU_VARIANT
