#include <algorithm>
#include <bit>
#include <vector>

#include "core/parallel.h"
#include "core/simd.h"
#include "core/simd_math.h"
#include "mlca/mlca.h"
#include "mlca/mlca_math.h"

namespace facekernels::mlca::FK_CPU_VARIANT {
namespace {

using namespace facekernels::FK_CPU_VARIANT;

// Where the statistics of a run of rows go; consecutive channels are consecutive in memory.
template <class A>
struct Stats {
  A* mean;
  A* max;
  A* relu_mean;     // null unless pool = average
  int32_t* argmax;  // null unless a backward pass follows
};

// Lane-wise sums and maximum of one row.
template <class A>
struct RowSums {
  Vec<A> sum, relu_sum, max;
};

template <class A>
Vec<A> relu_of(Vec<A> v) {
  return v <= Vec<A>{} ? Vec<A>{} : v;
}

// One contiguous row of at least a vector. The last, partial vector is loaded so that it ends with
// the row: lanes already counted are masked in the sums and harmless in the maximum.
template <class T, bool kAverage, class A = Accumulate<T>>
inline __attribute__((always_inline)) RowSums<A> scan_row(const T* row, int64_t positions) {
  using I = IndexOf<A>;
  constexpr int kWidth = kLanes<A>;
  const Vec<A> first = load(row);
  RowSums<A> s{first, relu_of<A>(first), first};
  int64_t p = kWidth;
  for (; p + kWidth <= positions; p += kWidth) {
    const Vec<A> v = load(row + p);
    s.sum += v;
    if constexpr (kAverage) s.relu_sum += relu_of<A>(v);
    s.max = maximum(s.max, v);
  }
  if (p < positions) {
    const int64_t start = positions - kWidth;
    const Vec<A> v = load(row + start);
    const Vec<A> fresh = iota<I>() >= splat(static_cast<I>(p - start)) ? v : Vec<A>{};
    s.sum += fresh;
    if constexpr (kAverage) s.relu_sum += relu_of<A>(fresh);
    s.max = maximum(s.max, v);
  }
  return s;
}

// Lowest position of `value` in a row of at least a vector; 0 if there is none (a NaN row).
template <class T, class A = Accumulate<T>>
inline __attribute__((always_inline)) int32_t first_equal(const T* row, int64_t positions,
                                                          A value) {
  constexpr int kWidth = kLanes<A>;
  const int64_t last = positions - kWidth;
  const Vec<A> wanted = splat(value);
  if (positions <= 64) {  // without a branch per vector: where the maximum lies is unpredictable
    uint64_t found = 0;
    for (int64_t p = 0; p < last; p += kWidth) found |= equal_bits(load(row + p), wanted) << p;
    found |= equal_bits(load(row + last), wanted) << last;
    return found ? std::countr_zero(found) : 0;
  }
  for (int64_t p = 0;; p = std::min(p + kWidth, last)) {
    if (const uint64_t found = equal_bits(load(row + p), wanted)) {
      return static_cast<int32_t>(p) + std::countr_zero(found);
    }
    if (p == last) return 0;
  }
}

template <class T, bool kAverage, class A = Accumulate<T>>
void scalar_row(const T* row, int64_t positions, int64_t stride, Stats<A> out, int64_t at) {
  A sum = 0, relu_sum = 0, best = row[0];
  int32_t index = 0;
  for (int64_t p = 0; p < positions; ++p) {
    const A v = row[p * stride];
    sum += v;
    if constexpr (kAverage) relu_sum += relu(v);
    if (v > best) best = v, index = static_cast<int32_t>(p);
  }
  out.mean[at] = sum / static_cast<A>(positions);
  if constexpr (kAverage) out.relu_mean[at] = relu_sum / static_cast<A>(positions);
  out.max[at] = best;
  if (out.argmax) out.argmax[at] = index;
}

// Short rows leave the hardware prefetcher behind: ask for the row `ahead` elements further on.
template <class T>
inline __attribute__((always_inline)) void prefetch(const T* row, int64_t ahead,
                                                    int64_t positions) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t p = 0; p < std::min<int64_t>(positions, 4 * kLine); p += kLine) {
    __builtin_prefetch(row + ahead + p);
  }
}

// NCHW: rows of positions. As many rows as a vector has lanes are reduced together.
// kPositions fixes the length of a row at compile time, which unrolls everything; 0 leaves it open.
template <class T, bool kAverage, int64_t kPositions = 0, class A = Accumulate<T>>
void stats_of_rows(const T* x, int64_t channels, int64_t stride_channel, int64_t any_positions,
                   Stats<A> out) {
  const int64_t positions = kPositions ? kPositions : any_positions;
  constexpr int kWidth = kLanes<A>;
  int64_t c = 0;
  if (positions >= kWidth) {
    const A count = static_cast<A>(positions);
    for (; c + kWidth <= channels; c += kWidth) {
      const T* const rows = x + c * stride_channel;
      Vec<A> sums[kWidth], relu_sums[kWidth], maxima[kWidth];
      for (int r = 0; r < kWidth; ++r) {
        const T* const row = rows + r * stride_channel;
        prefetch(row, 2 * kWidth * stride_channel, positions);
        const RowSums<A> s = scan_row<T, kAverage>(row, positions);
        sums[r] = s.sum;
        maxima[r] = s.max;
        if constexpr (kAverage) relu_sums[r] = s.relu_sum;
      }
      store(out.mean + c, reduce_rows(sums, add) / count);
      if constexpr (kAverage) store(out.relu_mean + c, reduce_rows(relu_sums, add) / count);
      store(out.max + c, reduce_rows(maxima, maximum));
      for (int r = 0; out.argmax && r < kWidth; ++r) {
        out.argmax[c + r] = first_equal(rows + r * stride_channel, positions, out.max[c + r]);
      }
    }
  }
  for (; c < channels; ++c) {
    scalar_row<T, kAverage>(x + c * stride_channel, positions, 1, out, c);
  }
}

// channels_last: lanes are channels, so positions are walked in registers without any shuffle.
// kVectors vectors in flight hide the latency of compare and select.
template <class T, bool kAverage, int kVectors, class A = Accumulate<T>>
void scan_columns(const T* x, int64_t stride_position, int64_t positions, Stats<A> out,
                  int64_t at) {
  using I = IndexOf<A>;
  constexpr int kWidth = kLanes<A>;
  Vec<A> sum[kVectors] = {}, relu_sum[kVectors] = {}, max[kVectors];
  Vec<I> index[kVectors] = {};
  for (int k = 0; k < kVectors; ++k) max[k] = load(x + k * kWidth);
  for (int64_t p = 0; p < positions; ++p) {
    const T* column = x + p * stride_position;
    for (int k = 0; k < kVectors; ++k) {
      const Vec<A> v = load(column + k * kWidth);
      // Lines are a whole row of channels apart, too far for the hardware to foresee the next
      // block.
      __builtin_prefetch(column + (kVectors + k) * kWidth);
      sum[k] += v;
      if constexpr (kAverage) relu_sum[k] += relu_of<A>(v);
      const auto greater = v > max[k];
      max[k] = greater ? v : max[k];
      index[k] = greater ? splat(static_cast<I>(p)) : index[k];
    }
  }
  const A count = static_cast<A>(positions);
  for (int k = 0; k < kVectors; ++k, at += kWidth) {
    store(out.mean + at, sum[k] / count);
    store(out.max + at, max[k]);
    if constexpr (kAverage) store(out.relu_mean + at, relu_sum[k] / count);
    for (int i = 0; out.argmax && i < kWidth; ++i)
      out.argmax[at + i] = static_cast<int32_t>(index[k][i]);
  }
}

template <class T, bool kAverage, class A = Accumulate<T>>
void stats_of_columns(const T* x, int64_t channels, int64_t stride_position, int64_t positions,
                      Stats<A> out) {
  constexpr int kWidth = kLanes<A>;
  int64_t c = 0;
  for (; c + 4 * kWidth <= channels; c += 4 * kWidth) {
    scan_columns<T, kAverage, 4>(x + c, stride_position, positions, out, c);
  }
  for (; c + kWidth <= channels; c += kWidth) {
    scan_columns<T, kAverage, 1>(x + c, stride_position, positions, out, c);
  }
  for (; c < channels; ++c) {
    scalar_row<T, kAverage>(x + c, positions, stride_position, out, c);
  }
}

// y[row, n] = bias_scale * bias[n] + sum_k a[row, k] w[n, k]: both operands contiguous along k, so
// a tile of kTile x kTile dot products runs over k in vectors and is reduced once at the end.
template <class A>
void linear(const A* a, int64_t rows, const A* w, const A* bias, A bias_scale, int64_t outputs,
            int64_t depth, A* y) {
  constexpr int kTile = 4;
  constexpr int kWidth = kLanes<A>;
  for (int64_t n0 = 0; n0 < outputs; n0 += kTile) {
    for (int64_t r0 = 0; r0 < rows; r0 += kTile) {
      // Rows past the end are computed from the last one and not stored.
      const A* ar[kTile];
      const A* wn[kTile];
      for (int i = 0; i < kTile; ++i) {
        ar[i] = a + std::min(r0 + i, rows - 1) * depth;
        wn[i] = w + std::min(n0 + i, outputs - 1) * depth;
      }
      Vec<A> tile[kTile][kTile] = {};
      int64_t k = 0;
      for (; k + kWidth <= depth; k += kWidth) {
        Vec<A> av[kTile];
        for (int i = 0; i < kTile; ++i) av[i] = load(ar[i] + k);
        for (int j = 0; j < kTile; ++j) {
          const Vec<A> wv = load(wn[j] + k);
          for (int i = 0; i < kTile; ++i) tile[i][j] += av[i] * wv;
        }
      }
      A dots[kTile * kTile];
      for (int i = 0; i < kTile * kTile; i += kWidth) {
        store(dots + i, reduce_rows(&tile[0][0] + i, add));
      }
      for (int i = 0; i < kTile && r0 + i < rows; ++i) {
        for (int j = 0; j < kTile && n0 + j < outputs; ++j) {
          A dot = dots[i * kTile + j];
          for (int64_t tail = k; tail < depth; ++tail) dot += ar[i][tail] * wn[j][tail];
          y[(r0 + i) * outputs + n0 + j] = dot + bias_scale * bias[n0 + j];
        }
      }
    }
  }
}

// Statistics and gate of `count` consecutive samples of one group.
template <class T, bool kAverage, class A = Accumulate<T>>
void forward_samples(const ForwardArgs& args, int64_t group, int64_t first, int64_t count,
                     std::vector<A>& scratch) {
  const MapLayout& m = args.layout;
  const int64_t channels = m.channels, hidden = args.hidden;
  const int64_t at = (group * m.batch + first) * channels;
  A* const mean = static_cast<A*>(args.mean) + at;
  A* const max = static_cast<A*>(args.max) + at;
  A* const relu_mean = kAverage ? static_cast<A*>(args.relu_mean) + at : nullptr;

  for (int64_t i = 0; i < count; ++i) {
    const T* x =
        static_cast<const T*>(args.x) + group * m.stride_group + (first + i) * m.stride_batch;
    const int64_t o = i * channels;
    const Stats<A> stats{mean + o, max + o, kAverage ? relu_mean + o : nullptr,
                         args.argmax ? args.argmax + at + o : nullptr};
    if (m.stride_position == 1 && m.positions == 49) {  // 7 x 7, the last stage of every backbone
      stats_of_rows<T, kAverage, 49>(x, channels, m.stride_channel, m.positions, stats);
    } else if (m.stride_position == 1) {
      stats_of_rows<T, kAverage>(x, channels, m.stride_channel, m.positions, stats);
    } else {
      stats_of_columns<T, kAverage>(x, channels, m.stride_position, m.positions, stats);
    }
  }

  if (args.pools_only) return;

  A* const scale = static_cast<A*>(args.scale) + at;
  const A* w1 = static_cast<const A*>(args.w1) + group * hidden * channels;
  const A* b1 = static_cast<const A*>(args.b1) + group * hidden;
  const A* w2 = static_cast<const A*>(args.w2) + group * channels * hidden;
  const A* b2 = static_cast<const A*>(args.b2) + group * channels;
  A* const of_mean = scratch.data();
  A* const of_max = of_mean + count * hidden;
  linear(mean, count, w1, b1, A(1), hidden, channels, of_mean);
  linear(max, count, w1, b1, A(1), hidden, channels, of_max);
  // The second layer is linear: both paths go through it once, added.
  for (int64_t i = 0; i < count * hidden; ++i) of_mean[i] = relu(of_mean[i]) + relu(of_max[i]);
  linear(of_mean, count, w2, b2, A(2), channels, hidden, scale);

  T* const out = static_cast<T*>(args.out) + at;
  const A* const pooled = kAverage ? relu_mean : max;
  constexpr int kWidth = kLanes<A>;
  int64_t i = 0;
  for (; i + kWidth <= count * channels; i += kWidth) {
    const Vec<A> s = sigmoid_of<A>(load(scale + i));
    const Vec<A> v = load(pooled + i);
    store(scale + i, s);
    store(out + i, s * relu_of<A>(v));  // mean of relu is not negative
  }
  for (; i < count * channels; ++i) {
    scale[i] = sigmoid(scale[i]);
    out[i] = narrow<T>(scale[i] * relu(pooled[i]));
  }
}

template <class T, bool kAverage>
void forward(const ForwardArgs& args) {
  constexpr int64_t kSamples = 8;  // share one pass over the weights
  const MapLayout& m = args.layout;
  const int64_t blocks = (m.batch + kSamples - 1) / kSamples;
  const int64_t cost = kSamples * m.channels * (m.positions + 3 * args.hidden / 2);
  parallel_for(m.groups * blocks, cost, [&](int64_t begin, int64_t end) {
    std::vector<Accumulate<T>> scratch(2 * kSamples * args.hidden);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % blocks * kSamples;
      forward_samples<T, kAverage>(args, i / blocks, first, std::min(kSamples, m.batch - first),
                                   scratch);
    }
  });
}

// One sample of dx. `x` is null unless pool = average.
template <class T, class A = Accumulate<T>>
void backward_sample(const MapLayout& m, const A* d_mean, const A* d_max, const int32_t* argmax,
                     const A* d_relu_mean, const T* x, T* dx) {
  const A inverse = A(1) / static_cast<A>(m.positions);
  if (m.stride_position == 1) {
    for (int64_t c = 0; c < m.channels; ++c) {
      T* const row = dx + c * m.stride_channel;
      const A everywhere = d_mean[c] * inverse;
      if (x) {
        const T* const in = x + c * m.stride_channel;
        const A positive = d_relu_mean[c] * inverse;
        for (int64_t p = 0; p < m.positions; ++p) {
          row[p] = narrow<T>(A(in[p]) > A(0) ? everywhere + positive : everywhere);
        }
        const A at_max = A(in[argmax[c]]) > A(0) ? everywhere + positive : everywhere;
        row[argmax[c]] = narrow<T>(at_max + d_max[c]);
      } else {
        std::fill_n(row, m.positions, narrow<T>(everywhere));
        row[argmax[c]] = narrow<T>(everywhere + d_max[c]);
      }
    }
    return;
  }
  // channels_last: whole lines of channels, so every store is consecutive.
  for (int64_t p = 0; p < m.positions; ++p) {
    T* const line = dx + p * m.stride_position;
    const T* const in = x ? x + p * m.stride_position : nullptr;
    for (int64_t c = 0; c < m.channels; ++c) {
      A d = d_mean[c] * inverse;
      if (in && A(in[c]) > A(0)) d += d_relu_mean[c] * inverse;
      if (argmax[c] == p) d += d_max[c];
      line[c] = narrow<T>(d);
    }
  }
}

template <class T>
void backward(const BackwardArgs& args) {
  using A = Accumulate<T>;
  const MapLayout& m = args.layout;
  parallel_for(m.groups * m.batch, m.channels * m.positions, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t offset = i / m.batch * m.stride_group + i % m.batch * m.stride_batch;
      const int64_t at = i * m.channels;
      backward_sample<T>(m, static_cast<const A*>(args.d_mean) + at,
                         static_cast<const A*>(args.d_max) + at, args.argmax + at,
                         args.x ? static_cast<const A*>(args.d_relu_mean) + at : nullptr,
                         args.x ? static_cast<const T*>(args.x) + offset : nullptr,
                         static_cast<T*>(args.dx) + offset);
    }
  });
}

}  // namespace

void forward_cpu(const ForwardArgs& args) {
  dispatch_floating<Half, BFloat16>(args.dtype, [&]<class T>() {
    args.average ? forward<T, true>(args) : forward<T, false>(args);
  });
}

void backward_cpu(const BackwardArgs& args) {
  dispatch_floating<Half, BFloat16>(args.dtype, [&]<class T>() { backward<T>(args); });
}

}  // namespace facekernels::mlca::FK_CPU_VARIANT
