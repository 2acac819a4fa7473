// Row by row, in blocks of features whose sums stay in registers while the neighbours pass. Where x
// is larger than the caches, narrow panels of it are copied to a table of their own first: their
// rows come from the cache as often as they have neighbours.
#include <algorithm>
#include <memory>

#include "core/huge_pages.h"
#include "core/parallel.h"
#include "core/simd.h"
#include "core/simd_run.h"
#include "neighbors/neighbors.h"
#include "neighbors/neighbors_math.h"

namespace facekernels::neighbors::FK_CPU_VARIANT {
namespace {

using namespace facekernels::FK_CPU_VARIANT;

// Vectors of a block: half of the registers. A panel's rows are 256 bytes of floats or doubles:
// short enough for a panel to stay cached, long enough for whole cache lines and few passes.
#if defined(__AVX512F__)
constexpr int kBlock = 16, kPanel = 4;
#else
constexpr int kBlock = 8, kPanel = 8;
#endif
// Rows lie anywhere, which hardware does not foresee: bytes of rows requested ahead.
constexpr int kAheadBytes = 2048;

// Some columns of x, wherever they lie.
template <class T>
struct Columns {
  const T* x;
  int64_t stride, first, count;
};

template <class T>
class Sum {
  using A = Accumulate<T>;
  static constexpr int kWidth = kLanes<A>;

 public:
  Sum(const SumArgs& args, Columns<T> columns)
      : args_(args), columns_(columns), out_(static_cast<T*>(args.out) + columns.first) {}

  void operator()(int64_t row) const {
    int64_t f = 0;
    for (; f + kBlock * kWidth <= columns_.count; f += kBlock * kWidth) block<kBlock>(row, f);
    if constexpr (kPanel < kBlock) {
      for (; f + kPanel * kWidth <= columns_.count; f += kPanel * kWidth) block<kPanel>(row, f);
    }
    const int64_t begin = args_.graph.indptr[row], end = args_.graph.indptr[row + 1];
    for_each_vector<A>(columns_.count - f, [&](int64_t j, auto full, int64_t count) {
      Vec<A> sum{};
      for (int64_t e = begin; e < end; ++e) {
        sum += weight_of(e) * load_lanes(source(e) + f + j, full, count);
      }
      store_lanes(out_ + row * args_.features + f + j, sum * factor(begin, end), full, count);
    });
  }

 private:
  template <int kVectors>
  void block(int64_t row, int64_t f) const {
    constexpr int kBytes = kVectors * kWidth * static_cast<int>(sizeof(T));
    constexpr int64_t kAhead = std::max(2, kAheadBytes / kBytes);
    const int64_t begin = args_.graph.indptr[row], end = args_.graph.indptr[row + 1];
    Vec<A> sums[kVectors] = {};
    for (int64_t e = begin; e < end; ++e) {
      if (e + kAhead < end) prefetch<kBytes>(source(e + kAhead) + f);
      const Vec<A> weight = splat(weight_of(e));
      const T* const x = source(e) + f;
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) sums[v] += weight * load(x + v * kWidth);
    }
    T* const out = out_ + row * args_.features + f;
    const A scale = factor(begin, end);
    for (int v = 0; v < kVectors; ++v) store(out + v * kWidth, sums[v] * scale);
  }

  template <int kBytes>
  static void prefetch(const T* x) {
#pragma GCC unroll 16
    for (int byte = 0; byte < kBytes; byte += 64) {
      __builtin_prefetch(reinterpret_cast<const char*>(x) + byte);
    }
  }

  const T* source(int64_t e) const { return columns_.x + args_.graph.indices[e] * columns_.stride; }

  A factor(int64_t begin, int64_t end) const {
    return args_.weighting == Weighting::kMean ? reciprocal<A>(end - begin) : A(1);
  }

  A weight_of(int64_t e) const {
    switch (args_.weighting) {
      case Weighting::kWeights: return static_cast<A>(static_cast<const T*>(args_.weights)[e]);
      case Weighting::kSourceDegree: return reciprocal<A>(args_.degrees[args_.graph.indices[e]]);
      default: return A(1);
    }
  }

  const SumArgs& args_;
  const Columns<T> columns_;
  T* const out_;
};

template <class T>
void sum_columns(const SumArgs& args, Columns<T> columns) {
  const Sum<T> sum(args, columns);
  const int64_t edges = args.graph.indptr[args.graph.rows];
  const int64_t cost = columns.count * (1 + edges / std::max<int64_t>(args.graph.rows, 1));
  parallel_for(args.graph.rows, cost, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) sum(row);
  });
}

// Whether copied panels pay: x does not stay in the caches, a panel of it does, and its rows are
// read several times.
template <class T>
bool panels_pay(const SumArgs& args, int64_t panel) {
  constexpr int64_t kCached = 12 << 20, kLargest = 28 << 20;  // bytes
  const int64_t row = static_cast<int64_t>(sizeof(T)) * args.graph.sources;
  return row * args.features > kCached && row * panel <= kLargest && args.features >= 2 * panel &&
         args.graph.indptr[args.graph.rows] >= 4 * args.graph.sources;
}

template <class T>
void sum_panels(const SumArgs& args, int64_t panel) {
  const T* const x = static_cast<const T*>(args.x);
  const std::unique_ptr<T[]> table(new T[args.graph.sources * panel]);
  for (int64_t first = 0; first < args.features; first += panel) {
    const int64_t count = std::min(panel, args.features - first);
    parallel_for(args.graph.sources, count, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        std::copy_n(x + row * args.features + first, count, table.get() + row * panel);
      }
    });
    sum_columns<T>(args, {table.get(), panel, first, count});
  }
}

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
    prefer_huge_pages(args.out, args.graph.rows * args.features * sizeof(T));
    constexpr int64_t panel = kPanel * kLanes<Accumulate<T>>;
    if (panels_pay<T>(args, panel)) {
      sum_panels<T>(args, panel);
    } else {
      sum_columns<T>(args, {static_cast<const T*>(args.x), args.features, 0, args.features});
    }
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
