#include <algorithm>
#include <bit>
#include <limits>
#include <vector>

#include "core/parallel.h"
#include "core/simd.h"
#include "core/simd_run.h"
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

// The rows around the one being searched, widened and with a border of -infinity on the left and
// right: a window then never leaves a row, and a border beats no cell. A radius beyond the map is
// cut down to it.
template <class A>
class RowWindow {
 public:
  RowWindow(const MapStack& maps, int64_t radius)
      : width_(maps.width),
        height_(maps.height),
        radius_x_(std::min(radius, maps.width - 1)),
        radius_y_(std::min(radius, maps.height - 1)),
        rows_(std::bit_ceil<uint64_t>(2 * radius_y_ + 1)),
        stride_((width_ + kLanes<A> - 1) / kLanes<A> * kLanes<A> + 2 * radius_x_),
        cells_(rows_ * stride_, -std::numeric_limits<A>::infinity()) {}

  int64_t radius_x() const { return radius_x_; }
  int64_t radius_y() const { return radius_y_; }
  int64_t height() const { return height_; }

  // Row y of the map takes the place of a row that no window reaches any more.
  template <class T>
  void load_row(int64_t y, const T* row, int64_t stride) {
    A* const target = cells_.data() + offset(y);
    if (stride == 1) {
      for_each_vector<A>(width_, [&](int64_t x, auto full, int64_t count) {
        store_lanes(target + x, load_lanes(row + x, full, count), full, count);
      });
    } else {  // channels_last and the like
      for (int64_t x = 0; x < width_; ++x) target[x] = A(row[x * stride]);
    }
  }
  // Column 0 of row y; columns -radius_x to width + radius_x exist.
  const A* row(int64_t y) const { return cells_.data() + offset(y); }

 private:
  int64_t offset(int64_t y) const { return (y & (rows_ - 1)) * stride_ + radius_x_; }

  int64_t width_, height_, radius_x_, radius_y_, rows_, stride_;
  std::vector<A> cells_;
};

// Of the lanes in `candidates`, those that nothing in the window around them beats. The centre
// beats itself in no lane: it is not greater, and ties count only in other cells.
template <class A>
uint64_t peak_bits(const RowWindow<A>& window, int64_t x, int64_t y, bool strict, Vec<A> values,
                   uint64_t candidates) {
  const int64_t last = std::min(y + window.radius_y(), window.height() - 1);
  for (int64_t v = std::max<int64_t>(y - window.radius_y(), 0); v <= last && candidates; ++v) {
    const A* const row = window.row(v) + x;
    for (int64_t u = -window.radius_x(); u <= window.radius_x(); ++u) {
      const Vec<A> others = load(row + u);
      candidates &= ~greater_bits(others, values);
      if (strict && (u != 0 || v != y)) candidates &= ~equal_bits(others, values);
    }
  }
  return candidates;
}

// Most cells fail the vector comparison with the rising limit; only where one passes are the
// windows compared, for all lanes at once.
template <class T, class A = Accumulate<T>>
void find_peaks(const MapStack& maps, const T* map, const PeaksArgs& args, RowWindow<A>& window,
                BestPeaks<A>& best) {
  int64_t loaded = 0;
  for (int64_t y = 0; y < maps.height; ++y) {
    for (; loaded <= std::min(y + window.radius_y(), maps.height - 1); ++loaded) {
      window.load_row(loaded, map + loaded * maps.stride_row, maps.stride_column);
    }
    const A* const row = window.row(y);
    for (int64_t x = 0; x < maps.width; x += kLanes<A>) {
      const Vec<A> values = load(row + x);
      uint64_t peaks = greater_bits(values, splat(best.limit()));
      if (!peaks) continue;
      peaks = peak_bits(window, x, y, args.strict, values, peaks);
      for (; peaks; peaks &= peaks - 1) {
        const int64_t column = x + std::countr_zero(peaks);
        if (row[column] > best.limit()) {
          best.add({row[column], static_cast<int32_t>(y * maps.width + column)});
        }
      }
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
    RowWindow<A> window(maps, args.radius);
    for (int64_t i = begin; i < end; ++i) {
      best.clear();
      const T* const map = static_cast<const T*>(args.heatmaps) + maps.offset(i);
      if (args.topk > 0) find_peaks(maps, map, args, window, best);
      write<T>(args, i, best.sorted());
    }
  });
}

}  // namespace

void peaks_cpu(const PeaksArgs& args) {
  dispatch_floating<Half, BFloat16>(args.dtype, [&]<class T>() { run<T>(args); });
}

}  // namespace facekernels::peaks::FK_CPU_VARIANT
