#include <algorithm>
#include <cmath>
#include <type_traits>

#include "core/parallel.h"
#include "core/simd.h"
#include "core/simd_run.h"
#include "gradient_attention/gradient_attention.h"
#include "gradient_attention/gradient_attention_math.h"

namespace facekernels::gradient_attention::FK_CPU_VARIANT {
namespace {

using namespace facekernels::FK_CPU_VARIANT;

// Positions whose map stays in the first cache while the channels pass.
constexpr int64_t kBlock = 1024;
// Channels per visit of a block: as many streams as the prefetchers follow.
constexpr int64_t kRows = 8;

template <class A>
Vec<A> magnitude_of(Vec<A> v) {
  return v < Vec<A>{} ? -v : v;
}

// f(b, first, count) for every block of positions.
template <class F>
void for_each_block(const Shape& shape, F f) {
  const int64_t blocks = (shape.positions + kBlock - 1) / kBlock;
  parallel_for(shape.batch * blocks, shape.channels * std::min(shape.positions, kBlock),
               [&](int64_t begin, int64_t end) {
                 for (int64_t item = begin; item < end; ++item) {
                   const int64_t first = item % blocks * kBlock;
                   f(item / blocks, first, std::min(kBlock, shape.positions - first));
                 }
               });
}

// map[j] = finish(step(...step(0, channel 0)..., channel C - 1)) for a block of positions, where
// step(v, c, values) adds a channel and `finish` follows the last one.
template <class A, class T, class Step, class Finish>
void fold_channels(const T* rows, const Shape& shape, int64_t count, A* map, Step step,
                   Finish finish) {
  for (int64_t c = 0; c < shape.channels; c += kRows) {
    const int64_t end = std::min(c + kRows, shape.channels);
    const bool first = c == 0, last = end == shape.channels;
    for_each_vector<A>(count, [&](int64_t j, auto full, int64_t lanes) {
      Vec<A> v = first ? Vec<A>{} : load_lanes(map + j, full, lanes);
      for (int64_t r = c; r < end; ++r) {
        v = step(v, r, load_lanes(rows + r * shape.positions + j, full, lanes));
      }
      store_lanes(map + j, last ? finish(v) : v, full, lanes);
    });
  }
}

// ---- forward

template <Reduce kReduce, class A>
Vec<A> combine(Vec<A> best, Vec<A> g) {
  if constexpr (kReduce == Reduce::kAbsMax) {
    const Vec<A> v = magnitude_of<A>(g);
    return (v > best) | (v != v) ? v : best;
  } else if constexpr (kReduce == Reduce::kAbsSum) {
    return best + magnitude_of<A>(g);
  } else {
    return best + g * g;
  }
}

template <class T, Reduce kReduce>
void forward_of(const ForwardArgs& args) {
  using A = Accumulate<T>;
  const Shape& shape = args.shape;
  for_each_block(shape, [&](int64_t b, int64_t first, int64_t count) {
    fold_channels<A>(
        static_cast<const T*>(args.grad) + b * shape.grad_stride + first, shape, count,
        static_cast<A*>(args.map) + b * shape.positions + first,
        [](Vec<A> v, int64_t, Vec<A> g) { return combine<kReduce, A>(v, g); },
        [](Vec<A> v) {
          if constexpr (kReduce == Reduce::kL2) {
            for (int i = 0; i < kLanes<A>; ++i) v[i] = std::sqrt(v[i]);
          }
          return v;
        });
  });
}

template <class T, class A = Accumulate<T>>
A sum_of_row(const T* row, int64_t count) {
  Vec<A> sum{};
  for_each_vector<A>(
      count, [&](int64_t j, auto full, int64_t lanes) { sum += load_lanes(row + j, full, lanes); });
  return reduce(sum, add);
}

template <class T>
void gradcam(const ForwardArgs& args) {
  using A = Accumulate<T>;
  const Shape& shape = args.shape;
  const int64_t positions = shape.positions;
  A* const all_weights = static_cast<A*>(args.weights);
  parallel_for(shape.batch * shape.channels, positions, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* const grad = static_cast<const T*>(args.grad) +
                            row / shape.channels * shape.grad_stride +
                            row % shape.channels * positions;
      all_weights[row] = sum_of_row(grad, positions) / static_cast<A>(positions);
    }
  });
  for_each_block(shape, [&](int64_t b, int64_t first, int64_t count) {
    const A* const weights = all_weights + b * shape.channels;
    fold_channels<A>(
        static_cast<const T*>(args.features) + b * shape.feature_stride + first, shape, count,
        static_cast<A*>(args.map) + b * positions + first,
        [&](Vec<A> v, int64_t c, Vec<A> values) { return v + weights[c] * values; },
        [](Vec<A> v) { return v <= Vec<A>{} ? Vec<A>{} : v; });
  });
}

// Means of up to kVectors vectors of channels over all positions, in registers. The sums of kRun
// positions are added up: rounding errors of one long chain would grow with the map.
template <class T, int kVectors, bool kFull, class A = Accumulate<T>>
void mean_of_columns(const T* rows, const Shape& shape, A* mean, std::bool_constant<kFull> full,
                     int64_t lanes) {
  constexpr int64_t kRun = 256;
  Vec<A> totals[kVectors] = {};
  for (int64_t first = 0; first < shape.positions; first += kRun) {
    const int64_t end = std::min(first + kRun, shape.positions);
    Vec<A> sums[kVectors] = {};
    for (int64_t p = first; p < end; ++p) {
      const T* const row = rows + p * shape.channels;
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sums[v] += load_lanes(row + v * kLanes<A>, full, lanes);
    }
    for (int v = 0; v < kVectors; ++v) totals[v] += sums[v];
  }
  for (int v = 0; v < kVectors; ++v) {
    store_lanes(mean + v * kLanes<A>, totals[v] / static_cast<A>(shape.positions), full, lanes);
  }
}

template <class T>
void gradcam_channels_last(const ForwardArgs& args) {
  using A = Accumulate<T>;
  constexpr int kVectors = 8;
  constexpr int64_t kColumns = kVectors * kLanes<A>;
  const Shape& shape = args.shape;
  A* const all_weights = static_cast<A*>(args.weights);
  const int64_t blocks = (shape.channels + kColumns - 1) / kColumns;
  parallel_for(
      shape.batch * blocks, shape.positions * std::min(shape.channels, kColumns),
      [&](int64_t begin, int64_t end) {
        for (int64_t item = begin; item < end; ++item) {
          const int64_t b = item / blocks, c = item % blocks * kColumns;
          const int64_t count = std::min(kColumns, shape.channels - c);
          const T* const grad = static_cast<const T*>(args.grad) + b * shape.grad_stride + c;
          A* const weights = all_weights + b * shape.channels + c;
          if (count == kColumns) {
            mean_of_columns<T, kVectors>(grad, shape, weights, std::true_type{}, kLanes<A>);
            continue;
          }
          for_each_vector<A>(count, [&](int64_t j, auto full, int64_t lanes) {
            mean_of_columns<T, 1>(grad + j, shape, weights + j, full, lanes);
          });
        }
      });
  parallel_for(shape.batch * shape.positions, shape.channels, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t b = item / shape.positions, p = item % shape.positions;
      const T* const features =
          static_cast<const T*>(args.features) + b * shape.feature_stride + p * shape.channels;
      const A* const weights = all_weights + b * shape.channels;
      Vec<A> dot{};
      for_each_vector<A>(shape.channels, [&](int64_t c, auto full, int64_t lanes) {
        dot += load_lanes(weights + c, full, lanes) * load_lanes(features + c, full, lanes);
      });
      static_cast<A*>(args.map)[item] = relu(reduce(dot, add));
    }
  });
}

// ---- backward

template <class T, Reduce kReduce>
void backward_of(const BackwardArgs& args) {
  using A = Accumulate<T>;
  const Shape& shape = args.shape;
  for_each_block(shape, [&](int64_t b, int64_t first, int64_t count) {
    const T* const grad = static_cast<const T*>(args.grad) + b * shape.grad_stride + first;
    T* const d_grad = static_cast<T*>(args.d_grad) + b * shape.size() + first;
    const int64_t at = b * shape.positions + first;
    const A* const map = static_cast<const A*>(args.map) + at;
    const A* const d_map = static_cast<const A*>(args.d_map) + at;
    int32_t chosen[kBlock];
    if constexpr (kReduce == Reduce::kAbsMax) {
      A best[kBlock];
      std::fill_n(best, count, A(-1));
      for (int64_t c = 0; c < shape.channels; ++c) {
        const T* const row = grad + c * shape.positions;
        for (int64_t j = 0; j < count; ++j) {
          const A v = magnitude(static_cast<A>(row[j]));
          const bool better = replaces(v, best[j]);
          best[j] = better ? v : best[j];
          chosen[j] = better ? static_cast<int32_t>(c) : chosen[j];
        }
      }
    }
    for (int64_t c = 0; c < shape.channels; ++c) {
      const T* const row = grad + c * shape.positions;
      T* const d_row = d_grad + c * shape.positions;
      for (int64_t j = 0; j < count; ++j) {
        const A g = row[j];
        A d;
        if constexpr (kReduce == Reduce::kAbsMax) {
          d = chosen[j] == c ? d_map[j] * sign(g) : A(0);
        } else if constexpr (kReduce == Reduce::kAbsSum) {
          d = d_map[j] * sign(g);
        } else {
          d = map[j] == A(0) ? A(0) : d_map[j] * g / map[j];
        }
        d_row[j] = narrow<T>(d);
      }
    }
  });
}

template <class T>
void gradcam_backward(const BackwardArgs& args) {
  using A = Accumulate<T>;
  const Shape& shape = args.shape;
  const int64_t positions = shape.positions;
  parallel_for(shape.batch * shape.channels, 3 * positions, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t b = row / shape.channels, c = row % shape.channels;
      const T* const features =
          static_cast<const T*>(args.features) + b * shape.feature_stride + c * positions;
      const A* const map = static_cast<const A*>(args.map) + b * positions;
      const A* const d_map = static_cast<const A*>(args.d_map) + b * positions;
      const A weight = static_cast<const A*>(args.weights)[row];
      T* const d_features = static_cast<T*>(args.d_features) + row * positions;
      Vec<A> dot{};
      for_each_vector<A>(positions, [&](int64_t j, auto full, int64_t lanes) {
        const Vec<A> m = load_lanes(map + j, full, lanes);
        const Vec<A> s = m > Vec<A>{} ? load_lanes(d_map + j, full, lanes) : Vec<A>{};
        dot += load_lanes(features + j, full, lanes) * s;
        store_lanes(d_features + j, weight * s, full, lanes);
      });
      std::fill_n(static_cast<T*>(args.d_grad) + row * positions, positions,
                  narrow<T>(reduce(dot, add) / static_cast<A>(positions)));
    }
  });
}

}  // namespace

void forward_cpu(const ForwardArgs& args) {
  dispatch_floating<Half, BFloat16>(args.dtype, [&]<class T>() {
    switch (args.reduce) {
      case Reduce::kAbsMax: return forward_of<T, Reduce::kAbsMax>(args);
      case Reduce::kAbsSum: return forward_of<T, Reduce::kAbsSum>(args);
      case Reduce::kL2: return forward_of<T, Reduce::kL2>(args);
      case Reduce::kGradCam:
        return args.shape.channels_last ? gradcam_channels_last<T>(args) : gradcam<T>(args);
    }
  });
}

void backward_cpu(const BackwardArgs& args) {
  dispatch_floating<Half, BFloat16>(args.dtype, [&]<class T>() {
    switch (args.reduce) {
      case Reduce::kAbsMax: return backward_of<T, Reduce::kAbsMax>(args);
      case Reduce::kAbsSum: return backward_of<T, Reduce::kAbsSum>(args);
      case Reduce::kL2: return backward_of<T, Reduce::kL2>(args);
      case Reduce::kGradCam: return gradcam_backward<T>(args);
    }
  });
}

}  // namespace facekernels::gradient_attention::FK_CPU_VARIANT
