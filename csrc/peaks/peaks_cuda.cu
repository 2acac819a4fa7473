// A block per map. It walks the map in order and keeps candidates in shared memory; when they no
// longer fit, they are sorted, all but the best are dropped, and the worst kept one becomes the
// limit a later cell must exceed. Nothing is lost however many cells are peaks, and the result does
// not depend on the order in which threads append. More than kRound peaks take several rounds, each
// starting after the last peak of the round before.
#include "core/cuda_dtype.cuh"
#include "core/device.cuh"
#include "peaks/peaks.h"
#include "peaks/peaks_math.h"

namespace facekernels::peaks {
namespace {

// Few large maps need many threads each; of many small ones several blocks share a multiprocessor,
// and each waits for itself only.
template <class A, int kBlock>
struct Size {
  static constexpr int kThreads = kBlock;
  static constexpr int kCells = 16 / static_cast<int>(sizeof(A));
  static constexpr int kTile = kBlock * kCells;  // cells between two looks at the candidates
  static constexpr int kRound = kTile;
  static constexpr int kCapacity = 2 * kTile;  // a power of two, as the sort needs
};
template <class A>
using Small = Size<A, 128>;
template <class A>
using Large = Size<A, 512>;
constexpr int64_t kSmallMap = 8192;  // cells

template <class A>
struct Candidates {
  A* scores;
  int* cells;
};

// Bitonic sort of the first `count` candidates, best first; `count` is the same in every thread.
template <int kThreads, class A>
__device__ __forceinline__ void sort(Candidates<A> c, int count) {
  int size = 2;
  while (size < count) size *= 2;
  for (int i = count + static_cast<int>(threadIdx.x); i < size; i += kThreads) {
    c.scores[i] = A(-HUGE_VAL);  // below every peak, so it stays behind them
    c.cells[i] = 0x7fffffff;
  }
  __syncthreads();
#pragma unroll 1
  for (int run = 2; run <= size; run *= 2) {
#pragma unroll 1
    for (int stride = run / 2; stride > 0; stride /= 2) {
#pragma unroll 1
      for (int pair = threadIdx.x; pair < size / 2; pair += kThreads) {
        const int low = 2 * pair - (pair & (stride - 1)), high = low + stride;
        const Peak<A> a{c.scores[low], c.cells[low]}, b{c.scores[high], c.cells[high]};
        const bool best_first = (low & run) == 0;
        if (before(b, a) == best_first && before(a, b) != best_first) {
          c.scores[low] = b.score;
          c.cells[low] = b.cell;
          c.scores[high] = a.score;
          c.cells[high] = a.cell;
        }
      }
      __syncthreads();
    }
  }
}

// Whether `other` keeps a cell of `value` from being a peak. Comparisons with NaN are false.
template <class A>
__device__ __forceinline__ bool beats(A other, A value, bool tie_counts) {
  return other > value || (tie_counts && other == value);
}

// Whether nothing in the window around (x, y) beats `value`; at(u, v) reads a cell. Positions
// outside the map or the window are moved onto the nearest cell of it: met twice, it changes
// nothing, and without a branch the loads of a group are under way at once.
template <class A, class At>
__device__ __forceinline__ bool is_peak(const PeaksArgs& args, int x, int y, int radius, A value,
                                        At at) {
  constexpr int kGroup = 4;
  const int x0 = max(x - radius, 0), y0 = max(y - radius, 0);
  const int x1 = static_cast<int>(min(x + int64_t{radius}, args.maps.width - 1));
  const int y1 = static_cast<int>(min(y + int64_t{radius}, args.maps.height - 1));
  for (int v = y0; v <= y1; ++v) {
    for (int first = x0; first <= x1; first += kGroup) {
      A others[kGroup];
      FK_UNROLL
      for (int i = 0; i < kGroup; ++i) others[i] = at(min(first + i, x1), v);
      bool beaten = false;
      FK_UNROLL
      for (int i = 0; i < kGroup; ++i) {
        const bool elsewhere = min(first + i, x1) != x || v != y;
        beaten |= beats(others[i], value, args.strict && elsewhere);
      }
      if (beaten) return false;
    }
  }
  return true;
}

// The same with radius 1: the whole window is one group.
template <class A, class At>
__device__ __forceinline__ bool is_peak_of_nine(const PeaksArgs& args, int x, int y, A value,
                                                At at) {
  const int u[3]{max(x - 1, 0), x, min(x + 1, static_cast<int>(args.maps.width) - 1)};
  const int v[3]{max(y - 1, 0), y, min(y + 1, static_cast<int>(args.maps.height) - 1)};
  A others[9];
  FK_UNROLL
  for (int i = 0; i < 9; ++i) others[i] = at(u[i % 3], v[i / 3]);
  bool beaten = false;
  FK_UNROLL
  for (int i = 0; i < 9; ++i) {
    const bool elsewhere = u[i % 3] != x || v[i / 3] != y;
    beaten |= beats(others[i], value, args.strict && elsewhere);
  }
  return !beaten;
}

template <class T, class Size>
__global__ void __launch_bounds__(Size::kThreads, 1) find_peaks(const PeaksArgs args) {
  using A = Accumulate<T>;
  constexpr int kThreads = Size::kThreads, kCells = Size::kCells, kTile = Size::kTile;
  constexpr int kRound = Size::kRound, kCapacity = Size::kCapacity;
  FK_SHARED(A, scores, [kCapacity]);
  FK_SHARED(int, candidates, [kCapacity]);
  FK_SHARED(int, appended, );
  const MapStack& maps = args.maps;
  const int64_t map = blockIdx.x;
  const T* const h = static_cast<const T*>(args.heatmaps) + maps.offset(map);
  const int cells = static_cast<int>(maps.cells()), width = static_cast<int>(maps.width);
  const int thread = static_cast<int>(threadIdx.x);
  const A threshold = static_cast<A>(args.threshold);
  const int radius = static_cast<int>(args.radius);
  const Candidates<A> all{scores, candidates};
  const auto at = [&](int64_t x, int64_t y) {
    return static_cast<A>(widen(h[y * maps.stride_row + x * maps.stride_column]));
  };

  int64_t written = 0;
  Peak<A> last{A(HUGE_VAL), -1};  // the worst peak written so far; every cell comes after it
  bool more = args.topk > 0;
  while (more) {
    const int64_t left = args.topk - written;
    const int wanted = static_cast<int>(left < kRound ? left : kRound);
    A limit = threshold;
    if (thread == 0) appended = 0;
    __syncthreads();
    for (int64_t tile = 0; tile < cells; tile += kTile) {
      // All loads before the first test: few blocks run at once, so each must hide its own waits.
      A values[kCells];
      int xs[kCells], ys[kCells];
      FK_UNROLL
      for (int i = 0; i < kCells; ++i) {
        const int64_t wanted = tile + i * kThreads + thread;
        const int cell = static_cast<int>(wanted < cells ? wanted : cells - 1);
        ys[i] = cell / width;
        xs[i] = cell - ys[i] * width;
        values[i] = at(xs[i], ys[i]);
      }
      FK_UNROLL
      for (int i = 0; i < kCells; ++i) {
        const int64_t cell = tile + i * kThreads + thread;
        const Peak<A> peak{values[i], static_cast<int>(cell)};
        if (cell < cells && values[i] > limit && before(last, peak) &&
            (radius == 1 ? is_peak_of_nine(args, xs[i], ys[i], values[i], at)
                         : is_peak(args, xs[i], ys[i], radius, values[i], at))) {
          const int slot = atomicAdd(&appended, 1);
          scores[slot] = values[i];
          candidates[slot] = peak.cell;
        }
      }
      __syncthreads();
      const int count = appended;
      if (count > kRound) {  // the next tile might not fit
        sort<kThreads>(all, count);
        limit = scores[wanted - 1];
        __syncthreads();
        if (thread == 0) appended = wanted;
      }
      __syncthreads();
    }
    const int count = appended;
    sort<kThreads>(all, count);
    const int found = count < wanted ? count : wanted;
    const int64_t first = map * args.topk + written;
    for (int i = thread; i < found; i += kThreads) {
      const int cell = candidates[i];
      static_cast<A*>(args.xy)[2 * (first + i)] = static_cast<A>(cell % width);
      static_cast<A*>(args.xy)[2 * (first + i) + 1] = static_cast<A>(cell / width);
      static_cast<T*>(args.score)[first + i] = narrow_to<T>(scores[i]);
      args.index[first + i] = cell;
    }
    written += found;
    more = found == wanted && written < args.topk;
    if (more) last = {scores[wanted - 1], candidates[wanted - 1]};
    __syncthreads();
  }

  for (int64_t i = written + thread; i < args.topk; i += kThreads) {
    const int64_t to = map * args.topk + i;
    static_cast<A*>(args.xy)[2 * to] = A(-1);
    static_cast<A*>(args.xy)[2 * to + 1] = A(-1);
    static_cast<T*>(args.score)[to] = narrow_to<T>(Accumulate<T>(0));
    args.index[to] = -1;
  }
  if (thread == 0) args.count[map] = written;
}

}  // namespace

void peaks_cuda(const PeaksArgs& args, Stream stream) {
  dispatch_floating<__half, __nv_bfloat16>(args.dtype, [&]<class T>() {
    const auto run = [&]<class Size>(Size) {
      launch("peaks::find_peaks", blocks_for(args.maps.count(), 1), Size::kThreads, 0, stream,
             find_peaks<T, Size>, args);
    };
    if (args.maps.cells() <= kSmallMap) {
      run(Small<Accumulate<T>>{});
    } else {
      run(Large<Accumulate<T>>{});
    }
  });
}

}  // namespace facekernels::peaks
