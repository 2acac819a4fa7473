#include <algorithm>
#include <bit>
#include <vector>

#include "core/huge_pages.h"
#include "core/parallel.h"
#include "core/simd.h"
#include "mlca/mlca.h"
#include "mlca/mlca_gate_cpu.h"
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

// Statistics and gate of `count` consecutive samples of one group.
template <class T, bool kAverage, class A = Accumulate<T>>
void forward_samples(const ForwardArgs& args, int64_t group, int64_t first, int64_t count,
                     std::vector<A>& scratch) {
  const MapLayout& m = args.layout;
  const int64_t channels = m.channels;
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

  if (!args.pools_only) gate<T>(args, group, group * m.batch + first, count, scratch.data());
}

constexpr int64_t kSamples = 8;    // share one pass over the weights
constexpr int64_t kChannels = 64;  // whose weights' gradients are made together

template <class T, bool kAverage>
void forward(const ForwardArgs& args) {
  const MapLayout& m = args.layout;
  const int64_t blocks = (m.batch + kSamples - 1) / kSamples;
  const int64_t cost = kSamples * m.channels * (m.positions + 3 * args.hidden / 2);
  parallel_for(m.groups * blocks, cost, [&](int64_t begin, int64_t end) {
    std::vector<Accumulate<T>> scratch(kSamples * args.hidden);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % blocks * kSamples;
      forward_samples<T, kAverage>(args, i / blocks, first, std::min(kSamples, m.batch - first),
                                   scratch);
    }
  });
}

template <class T>
void gate_gradients(const GateBackwardArgs& args) {
  using A = Accumulate<T>;
  const int64_t units = args.hidden, batch = args.batch, channels = args.channels;
  const int64_t blocks = (batch + kSamples - 1) / kSamples;
  parallel_for(args.groups * blocks, 4 * kSamples * channels * units, [&](int64_t i, int64_t end) {
    for (; i < end; ++i) {
      const int64_t first = i % blocks * kSamples;
      gate_backward<T>(args, i / blocks, i / blocks * batch + first,
                       std::min(kSamples, batch - first));
    }
  });
  if (!args.db2) return;
  const int64_t tiles = (channels + kChannels - 1) / kChannels;
  parallel_for(args.groups * tiles, 3 * batch * kChannels * units, [&](int64_t i, int64_t end) {
    std::vector<A> hidden(batch * units);
    for (int64_t of = -1; i < end; ++i) {
      const int64_t group = i / tiles, first = i % tiles * kChannels;
      if (group != of) {
        add_paths(static_cast<const A*>(args.pre) + 2 * group * batch * units, batch, units,
                  hidden.data());
        of = group;
      }
      weight_gradients<A>(args, group, first, std::min(kChannels, channels - first), hidden.data());
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
  if (m.stride_batch * m.batch * m.groups == m.rows() * m.positions) {  // dx without gaps
    prefer_huge_pages(args.dx, m.rows() * m.positions * sizeof(T));
  }
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

void gate_backward_cpu(const GateBackwardArgs& args) {
  dispatch_floating<Half, BFloat16>(args.dtype, [&]<class T>() { gate_gradients<T>(args); });
}

void backward_cpu(const BackwardArgs& args) {
  dispatch_floating<Half, BFloat16>(args.dtype, [&]<class T>() { backward<T>(args); });
}

}  // namespace facekernels::mlca::FK_CPU_VARIANT
