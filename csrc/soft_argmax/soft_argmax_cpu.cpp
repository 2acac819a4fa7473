#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/parallel.h"
#include "core/simd.h"
#include "core/simd_math.h"
#include "soft_argmax/soft_argmax.h"
#include "soft_argmax/soft_argmax_math.h"

namespace facekernels::soft_argmax::FK_CPU_VARIANT {
namespace {

using namespace facekernels::FK_CPU_VARIANT;

// Rows of a map that fit the first cache, so that several passes over them read memory once.
constexpr int64_t kBlockCells = 4096;

template <class A>
constexpr A kLowest = -std::numeric_limits<A>::infinity();

// Consecutive rows of one map. Maps with strided columns (channels_last) are gathered first.
template <class T>
struct Rows {
  const T* data;
  int64_t stride;
  int64_t first;
  int64_t count;
};

template <class T, class F>
void for_each_block(const MapStack& maps, const T* map, std::vector<T>& scratch, F f) {
  const int64_t height = maps.height, width = maps.width;
  const int64_t step = std::max<int64_t>(1, kBlockCells / width);
  for (int64_t first = 0; first < height; first += step) {
    const int64_t count = std::min(step, height - first);
    const T* const data = map + first * maps.stride_row;
    if (maps.stride_column == 1 || width == 1) {
      f(Rows<T>{data, maps.stride_row, first, count});
      continue;
    }
    scratch.resize(count * width);
    for (int64_t y = 0; y < count; ++y) {
      for (int64_t x = 0; x < width; ++x) {
        scratch[y * width + x] = data[y * maps.stride_row + x * maps.stride_column];
      }
    }
    f(Rows<T>{scratch.data(), width, first, count});
  }
}

// Largest of a run of values; a NaN never wins.
template <class T, class A = Accumulate<T>>
A max_of_run(const T* p, int64_t count) {
  constexpr int kWidth = kLanes<A>, kChains = 4;  // independent chains hide the latency
  Vec<A> best[kChains];
  for (auto& b : best) b = splat(kLowest<A>);
  int64_t i = 0;
  for (; i + kChains * kWidth <= count; i += kChains * kWidth) {
    for (int c = 0; c < kChains; ++c) best[c] = maximum(best[c], load(p + i + c * kWidth));
  }
  for (; i + kWidth <= count; i += kWidth) best[0] = maximum(best[0], load(p + i));
  if (i < count) best[0] = maximum(best[0], load_partial(p + i, count - i, kLowest<A>));
  return reduce(maximum(maximum(best[0], best[1]), maximum(best[2], best[3])), maximum);
}

template <class T, class A = Accumulate<T>>
A max_of_rows(const Rows<T>& rows, int64_t width) {
  if (rows.stride == width) return max_of_run(rows.data, rows.count * width);
  A best = kLowest<A>;
  for (int64_t y = 0; y < rows.count; ++y) {
    best = maximum(best, max_of_run(rows.data + y * rows.stride, width));
  }
  return best;
}

// Sums of w, w x and w y with x and y counted from the centre of the map: a flat map then gives the
// centre exactly, and rounding errors stay small in large maps.
template <class A>
struct Moments {
  A max = kLowest<A>;
  Vec<A> sum{}, sum_x{}, sum_y{};
};

template <class T, class A = Accumulate<T>>
void add_rows(Moments<A>& m, const Rows<T>& rows, const MapStack& maps, A beta) {
  constexpr int kWidth = kLanes<A>;
  const A rows_max = max_of_rows(rows, maps.width);
  if (rows_max > m.max) {
    // The sums of the rows before become relative to the new maximum.
    const A shrink = std::exp(beta * (m.max - rows_max));
    m.sum *= shrink;
    m.sum_x *= shrink;
    m.sum_y *= shrink;
    m.max = rows_max;
  }
  // Cells at -infinity weigh nothing, even while nothing larger has been seen.
  const Vec<A> reference = splat(m.max > kLowest<A> ? m.max : A(0));
  const A center_x = A(maps.width - 1) / 2, center_y = A(maps.height - 1) / 2;
  const Vec<A> lane = iota<A>() - center_x;
  for (int64_t y = 0; y < rows.count; ++y) {
    const T* const row = rows.data + y * rows.stride;
    Vec<A> sum{}, sum_x{};
    const auto add_vector = [&](Vec<A> v, int64_t x) {
      const Vec<A> w = exp_of<A>((v - reference) * beta);
      sum += w;
      sum_x += w * (lane + A(x));
    };
    int64_t x = 0;
    for (; x + kWidth <= maps.width; x += kWidth) add_vector(load(row + x), x);
    if (x < maps.width) add_vector(load_partial(row + x, maps.width - x, kLowest<A>), x);
    m.sum += sum;
    m.sum_x += sum_x;
    m.sum_y += sum * (A(rows.first + y) - center_y);
  }
}

template <class T>
void soft(const SoftArgs& args) {
  using A = Accumulate<T>;
  const MapStack& maps = args.maps;
  const A beta = sharpness<A>(args.beta);
  parallel_for(maps.count(), 4 * maps.cells(), [&](int64_t begin, int64_t end) {
    std::vector<T> scratch;
    for (int64_t i = begin; i < end; ++i) {
      Moments<A> m;
      for_each_block(maps, static_cast<const T*>(args.heatmaps) + maps.offset(i), scratch,
                     [&](const Rows<T>& rows) { add_rows(m, rows, maps, beta); });
      const A inverse = A(1) / reduce(m.sum, add);
      const A x = A(maps.width - 1) / 2 + reduce(m.sum_x, add) * inverse;
      const A y = A(maps.height - 1) / 2 + reduce(m.sum_y, add) * inverse;
      A* const xy = static_cast<A*>(args.xy) + 2 * i;
      xy[0] = args.normalized ? normalize(x, maps.width) : x;
      xy[1] = args.normalized ? normalize(y, maps.height) : y;
      if (args.stats) {
        A* const stats = static_cast<A*>(args.stats) + 4 * i;
        stats[0] = m.max;
        stats[1] = inverse;
        stats[2] = x;
        stats[3] = y;
      }
    }
  });
}

template <class T>
void soft_backward(const SoftBackwardArgs& args) {
  using A = Accumulate<T>;
  constexpr int kWidth = kLanes<A>;
  const MapStack& maps = args.maps;
  const A beta = sharpness<A>(args.beta);
  parallel_for(maps.count(), 4 * maps.cells(), [&](int64_t begin, int64_t end) {
    std::vector<T> scratch;
    for (int64_t i = begin; i < end; ++i) {
      const A* const stats = static_cast<const A*>(args.stats) + 4 * i;
      const A* const d_xy = static_cast<const A*>(args.d_xy) + 2 * i;
      const A scale = beta * stats[1];
      const A gx = scale * d_xy[0] * (args.normalized ? normalize_slope<A>(maps.width) : A(1));
      const A gy = scale * d_xy[1] * (args.normalized ? normalize_slope<A>(maps.height) : A(1));
      const Vec<A> lane = iota<A>() - stats[2];
      T* const d_map = static_cast<T*>(args.d_heatmaps) + i * maps.cells();
      for_each_block(maps, static_cast<const T*>(args.heatmaps) + maps.offset(i), scratch,
                     [&](const Rows<T>& rows) {
                       for (int64_t y = 0; y < rows.count; ++y) {
                         const T* const row = rows.data + y * rows.stride;
                         T* const out = d_map + (rows.first + y) * maps.width;
                         const A from_y = (A(rows.first + y) - stats[3]) * gy;
                         const auto gradient = [&](Vec<A> v, int64_t x) {
                           return exp_of<A>((v - stats[0]) * beta) * ((lane + A(x)) * gx + from_y);
                         };
                         int64_t x = 0;
                         for (; x + kWidth <= maps.width; x += kWidth) {
                           store(out + x, gradient(load(row + x), x));
                         }
                         if (x < maps.width) {
                           T last[kWidth];
                           store(last,
                                 gradient(load_partial(row + x, maps.width - x, kLowest<A>), x));
                           std::copy_n(last, maps.width - x, out + x);
                         }
                       }
                     });
    }
  });
}

// Index of the first value equal to `wanted`, which is known to be there.
template <class T, class A = Accumulate<T>>
int64_t find_first(const T* p, int64_t count, A wanted) {
  constexpr int kWidth = kLanes<A>, kChains = 4;
  int64_t i = 0;
  for (; i + kChains * kWidth <= count; i += kChains * kWidth) {
    uint64_t hit = 0;
    for (int c = 0; c < kChains; ++c) hit |= equal_bits(load(p + i + c * kWidth), splat(wanted));
    if (hit) break;
  }
  while (i < count && A(p[i]) != wanted) ++i;
  return i;
}

// Flat index of the first maximum; 0 if no cell is a number above -infinity.
template <class T, class A = Accumulate<T>>
int64_t argmax_of(const MapStack& maps, const T* map, std::vector<T>& scratch) {
  A best = kLowest<A>;
  int64_t index = 0;
  for_each_block(maps, map, scratch, [&](const Rows<T>& rows) {
    const A rows_max = max_of_rows(rows, maps.width);
    if (!(rows_max > best)) return;
    best = rows_max;
    for (int64_t y = 0; y < rows.count; ++y) {
      const int64_t x = find_first(rows.data + y * rows.stride, maps.width, best);
      if (x < maps.width) {
        index = (rows.first + y) * maps.width + x;
        return;
      }
    }
  });
  return index;
}

template <class T>
void center(const CenterArgs& args) {
  using A = Accumulate<T>;
  const MapStack& maps = args.maps;
  parallel_for(maps.count(), maps.cells(), [&](int64_t begin, int64_t end) {
    std::vector<T> scratch;
    for (int64_t i = begin; i < end; ++i) {
      const T* const map = static_cast<const T*>(args.heatmaps) + maps.offset(i);
      const int64_t cell = argmax_of(maps, map, scratch);
      const Window window(maps, cell, args.radius);
      A sum = 0, sum_x = 0, sum_y = 0;
      for (int64_t y = window.y0; y < window.y1; ++y) {
        A row_sum = 0;
        for (int64_t x = window.x0; x < window.x1; ++x) {
          const A w = positive_part(A(map[y * maps.stride_row + x * maps.stride_column]));
          row_sum += w;
          sum_x += w * A(x - window.x0);
        }
        sum += row_sum;
        sum_y += row_sum * A(y - window.y0);
      }
      center_of(window, maps.width, cell, sum, sum_x, sum_y, static_cast<A*>(args.xy) + 2 * i);
      if (args.sum) static_cast<A*>(args.sum)[i] = sum;
      if (args.argmax) args.argmax[i] = static_cast<int32_t>(cell);
    }
  });
}

template <class T>
void center_backward(const CenterBackwardArgs& args) {
  using A = Accumulate<T>;
  const MapStack& maps = args.maps;
  parallel_for(maps.count(), maps.cells(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T* const map = static_cast<const T*>(args.heatmaps) + maps.offset(i);
      T* const d_map = static_cast<T*>(args.d_heatmaps) + i * maps.cells();
      std::fill_n(d_map, maps.cells(), narrow<T>(A(0)));
      const A sum = static_cast<const A*>(args.sum)[i];
      const A* const xy = static_cast<const A*>(args.xy) + 2 * i;
      const A* const d_xy = static_cast<const A*>(args.d_xy) + 2 * i;
      const Window window(maps, args.argmax[i], args.radius);
      for (int64_t y = window.y0; y < window.y1; ++y) {
        for (int64_t x = window.x0; x < window.x1; ++x) {
          if (A(map[y * maps.stride_row + x * maps.stride_column]) <= A(0)) continue;
          const A d = ((A(x) - xy[0]) * d_xy[0] + (A(y) - xy[1]) * d_xy[1]) / sum;
          d_map[y * maps.width + x] = narrow<T>(d);
        }
      }
    }
  });
}

}  // namespace

void soft_cpu(const SoftArgs& args) {
  dispatch_floating<Half, BFloat16>(args.dtype, [&]<class T>() { soft<T>(args); });
}

void soft_backward_cpu(const SoftBackwardArgs& args) {
  dispatch_floating<Half, BFloat16>(args.dtype, [&]<class T>() { soft_backward<T>(args); });
}

void center_cpu(const CenterArgs& args) {
  dispatch_floating<Half, BFloat16>(args.dtype, [&]<class T>() { center<T>(args); });
}

void center_backward_cpu(const CenterBackwardArgs& args) {
  dispatch_floating<Half, BFloat16>(args.dtype, [&]<class T>() { center_backward<T>(args); });
}

}  // namespace facekernels::soft_argmax::FK_CPU_VARIANT
