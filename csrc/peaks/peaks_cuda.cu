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

constexpr int kThreads = 512;
constexpr int kTile = 2048;  // cells between two looks at the number of candidates
constexpr int kCells = kTile / kThreads;
constexpr int kRound = 1024;
constexpr int kCapacity = kRound + kTile;

template <class A>
struct Candidates {
  A* scores;
  int* cells;
};

// Bitonic sort of the first `count` candidates, best first; `count` is the same in every thread.
template <class A>
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

template <class T>
__global__ void __launch_bounds__(kThreads, 1) find_peaks(const PeaksArgs args) {
  using A = Accumulate<T>;
  FK_SHARED(A, scores, [kCapacity]);
  FK_SHARED(int, candidates, [kCapacity]);
  FK_SHARED(int, appended, );
  const MapStack& maps = args.maps;
  const int64_t map = blockIdx.x;
  const T* const h = static_cast<const T*>(args.heatmaps) + maps.offset(map);
  const int cells = static_cast<int>(maps.cells()), width = static_cast<int>(maps.width);
  const int thread = static_cast<int>(threadIdx.x);
  const A threshold = static_cast<A>(args.threshold);
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
            is_peak(maps, xs[i], ys[i], args.radius, args.strict, values[i], at)) {
          const int slot = atomicAdd(&appended, 1);
          scores[slot] = values[i];
          candidates[slot] = peak.cell;
        }
      }
      __syncthreads();
      const int count = appended;
      if (count > kRound) {  // the next tile might not fit
        sort(all, count);
        limit = scores[wanted - 1];
        __syncthreads();
        if (thread == 0) appended = wanted;
      }
      __syncthreads();
    }
    const int count = appended;
    sort(all, count);
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
    launch("peaks::find_peaks", blocks_for(args.maps.count(), 1), kThreads, 0, stream,
           find_peaks<T>, args);
  });
}

}  // namespace facekernels::peaks
