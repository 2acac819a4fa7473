#include <algorithm>
#include <bit>
#include <limits>
#include <vector>

#include "core/parallel.h"
#include "core/simd.h"
#include "peaks/peaks.h"
#include "peaks/peaks_math.h"

namespace facekernels::peaks::FK_CPU_VARIANT {
namespace {

using namespace facekernels::FK_CPU_VARIANT;

// The best peaks so far: a heap with the worst of them in front.
template <class A>
class BestPeaks {
 public:
  BestPeaks(int64_t capacity, A threshold) : capacity_(capacity), threshold_(threshold) {
    peaks_.reserve(capacity + 1);
  }
  void clear() {
    peaks_.clear();
    limit_ = threshold_;
  }
  // What a later cell must exceed to enter: cells come in order, so of equal scores the one that
  // is already here stays.
  A limit() const { return limit_; }

  void add(Peak<A> peak) {
    peaks_.push_back(peak);
    std::push_heap(peaks_.begin(), peaks_.end(), before<A>);
    if (static_cast<int64_t>(peaks_.size()) > capacity_) {
      std::pop_heap(peaks_.begin(), peaks_.end(), before<A>);
      peaks_.pop_back();
    }
    if (static_cast<int64_t>(peaks_.size()) == capacity_) limit_ = peaks_.front().score;
  }
  const std::vector<Peak<A>>& sorted() {
    std::sort_heap(peaks_.begin(), peaks_.end(), before<A>);
    return peaks_;
  }

 private:
  int64_t capacity_;
  A threshold_;
  A limit_ = threshold_;
  std::vector<Peak<A>> peaks_;
};

// Most cells fail the vector comparison with the rising limit; only the others look around.
template <class T, class A = Accumulate<T>>
void find_peaks(const MapStack& maps, const T* map, int64_t stride_row, const PeaksArgs& args,
                BestPeaks<A>& best) {
  constexpr int kWidth = kLanes<A>;
  const auto at = [&](int64_t x, int64_t y) { return A(map[y * stride_row + x]); };
  for (int64_t y = 0; y < maps.height; ++y) {
    const T* const row = map + y * stride_row;
    const auto visit = [&](Vec<A> values, int64_t x) {
      uint64_t above = greater_bits(values, splat(best.limit()));
      for (; above; above &= above - 1) {
        const int64_t column = x + std::countr_zero(above);
        const A value = A(row[column]);
        if (value > best.limit() && is_peak(maps, column, y, args.radius, args.strict, value, at)) {
          best.add({value, static_cast<int32_t>(y * maps.width + column)});
        }
      }
    };
    int64_t x = 0;
    for (; x + kWidth <= maps.width; x += kWidth) visit(load(row + x), x);
    if (x < maps.width) {
      constexpr A kNever = -std::numeric_limits<A>::infinity();
      visit(load_partial(row + x, maps.width - x, kNever), x);
    }
  }
}

template <class T, class A = Accumulate<T>>
void write(const PeaksArgs& args, int64_t map, const std::vector<Peak<A>>& peaks) {
  const int64_t at = map * args.topk, count = static_cast<int64_t>(peaks.size());
  A* const xy = static_cast<A*>(args.xy) + 2 * at;
  T* const score = static_cast<T*>(args.score) + at;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t cell = peaks[i].cell;
    xy[2 * i] = static_cast<A>(cell % args.maps.width);
    xy[2 * i + 1] = static_cast<A>(cell / args.maps.width);
    score[i] = narrow<T>(peaks[i].score);
    args.index[at + i] = cell;
  }
  std::fill(xy + 2 * count, xy + 2 * args.topk, A(-1));
  std::fill(score + count, score + args.topk, narrow<T>(A(0)));
  std::fill(args.index + at + count, args.index + at + args.topk, int64_t{-1});
  args.count[map] = count;
}

template <class T>
void run(const PeaksArgs& args) {
  using A = Accumulate<T>;
  const MapStack& maps = args.maps;
  parallel_for(maps.count(), 2 * maps.cells(), [&](int64_t begin, int64_t end) {
    BestPeaks<A> best(std::min(args.topk, maps.cells()), static_cast<A>(args.threshold));
    std::vector<T> dense;
    for (int64_t i = begin; i < end; ++i) {
      best.clear();
      const T* map = static_cast<const T*>(args.heatmaps) + maps.offset(i);
      int64_t stride_row = maps.stride_row;
      if (maps.stride_column != 1 && maps.width > 1) {  // channels_last and the like
        dense.resize(maps.cells());
        for (int64_t y = 0; y < maps.height; ++y) {
          for (int64_t x = 0; x < maps.width; ++x) {
            dense[y * maps.width + x] = map[y * maps.stride_row + x * maps.stride_column];
          }
        }
        map = dense.data();
        stride_row = maps.width;
      }
      if (args.topk > 0) find_peaks(maps, map, stride_row, args, best);
      write<T>(args, i, best.sorted());
    }
  });
}

}  // namespace

void peaks_cpu(const PeaksArgs& args) {
  dispatch_floating<Half, BFloat16>(args.dtype, [&]<class T>() { run<T>(args); });
}

}  // namespace facekernels::peaks::FK_CPU_VARIANT
