// Two launches forward (statistics, gate), one backward. See mlca.h for the maths.
#include "core/cuda_dtype.cuh"
#include "core/device.cuh"
#include "core/pack.cuh"
#include "mlca/mlca.h"
#include "mlca/mlca_math.h"

namespace facekernels::mlca {
namespace {

constexpr int kThreads = 256;
constexpr int kPack = 4;         // elements of dx that a thread writes at once
constexpr int kRun = 8;          // positions of one thread that owns channels
constexpr int kGateSamples = 4;  // samples of one gate block: they share every weight it reads

template <class A>
struct Stats {
  A sum;
  A relu_sum;
  A max;
  int index;
};

template <class A>
__device__ __forceinline__ void accumulate(Stats<A>& s, A value, int position) {
  s.sum += value;
  s.relu_sum += relu(value);
  if (replaces(value, position, s.max, s.index)) {
    s.max = value;
    s.index = position;
  }
}

// Combines the lanes of each aligned group of kLanes; afterwards all of them hold the result.
template <int kLanes, class A>
__device__ __forceinline__ void combine_lanes(Stats<A>& s) {
  FK_UNROLL
  for (int offset = kLanes / 2; offset > 0; offset /= 2) {
    s.sum += __shfl_xor_sync(0xffffffffu, s.sum, offset);
    s.relu_sum += __shfl_xor_sync(0xffffffffu, s.relu_sum, offset);
    const A max = __shfl_xor_sync(0xffffffffu, s.max, offset);
    const int index = __shfl_xor_sync(0xffffffffu, s.index, offset);
    if (replaces(max, index, s.max, s.index)) {
      s.max = max;
      s.index = index;
    }
  }
}

__device__ __forceinline__ int64_t offset_of_row(const MapLayout& m, int64_t row) {
  // Divisions of 64 bits cost more than the rest of a short row.
  if (m.stride_batch == m.channels * m.stride_channel &&
      m.stride_group == m.batch * m.stride_batch) {
    return row * m.stride_channel;
  }
  const int64_t gb = row / m.channels, c = row - gb * m.channels;
  const int64_t group = gb / m.batch, b = gb - group * m.batch;
  return group * m.stride_group + b * m.stride_batch + c * m.stride_channel;
}

template <class A>
__device__ __forceinline__ void write_stats(const ForwardArgs& args, int64_t row, Stats<A> s) {
  const A count = static_cast<A>(args.layout.positions);
  static_cast<A*>(args.mean)[row] = s.sum / count;
  static_cast<A*>(args.max)[row] = s.max;
  if (args.argmax) args.argmax[row] = s.index;
  if (args.average) static_cast<A*>(args.relu_mean)[row] = s.relu_sum / count;
}

// NCHW: kLanes neighbouring lanes share a row. 8 lanes of float read whole 32-byte sectors, so a
// 7 x 7 row wastes nothing and a warp keeps four rows in flight.
template <class T, int kLanes>
__global__ void __launch_bounds__(kThreads) stats_of_rows(const ForwardArgs args) {
  using A = Accumulate<T>;
  const MapLayout& m = args.layout;
  const int64_t rows = m.rows();
  const int lane = threadIdx.x % kLanes;
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kLanes;
  // Lanes without a row of their own repeat the last one: the shuffles need every lane.
  const T* const x = static_cast<const T*>(args.x) + offset_of_row(m, row < rows ? row : rows - 1);
  const int positions = static_cast<int>(m.positions);
  const int first = lane < positions ? lane : positions - 1;
  Stats<A> s{A(0), A(0), widen(x[first]), first};
#pragma unroll 4
  for (int p = lane; p < positions; p += kLanes) accumulate(s, widen(x[p]), p);
  combine_lanes<kLanes>(s);
  if (lane == 0 && row < rows) write_stats(args, row, s);
}

// Long rows: one block each, its warps combined in a fixed order.
template <class T>
__global__ void __launch_bounds__(kThreads) stats_of_long_rows(const ForwardArgs args) {
  using A = Accumulate<T>;
  constexpr int kWarps = kThreads / 32;
  FK_SHARED(A, sums, [kWarps]);
  FK_SHARED(A, relu_sums, [kWarps]);
  FK_SHARED(A, maxima, [kWarps]);
  FK_SHARED(int, indices, [kWarps]);
  const int64_t row = blockIdx.x;
  const T* const x = static_cast<const T*>(args.x) + offset_of_row(args.layout, row);
  const int positions = static_cast<int>(args.layout.positions);
  const int first = static_cast<int>(threadIdx.x);  // positions >= kThreads on this path
  Stats<A> s{A(0), A(0), widen(x[first]), first};
#pragma unroll 4
  for (int p = first; p < positions; p += kThreads) accumulate(s, widen(x[p]), p);
  combine_lanes<32>(s);
  if (threadIdx.x % 32 == 0) {
    const int warp = threadIdx.x / 32;
    sums[warp] = s.sum;
    relu_sums[warp] = s.relu_sum;
    maxima[warp] = s.max;
    indices[warp] = s.index;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < kWarps; ++w) {
      s.sum += sums[w];
      s.relu_sum += relu_sums[w];
      if (replaces(maxima[w], indices[w], s.max, s.index)) {
        s.max = maxima[w];
        s.index = indices[w];
      }
    }
    write_stats(args, row, s);
  }
}

// channels_last: a thread owns a channel and walks the positions; neighbouring threads read
// neighbouring channels, and nothing is exchanged.
template <class T>
__global__ void __launch_bounds__(kThreads) stats_of_columns(const ForwardArgs args) {
  using A = Accumulate<T>;
  const MapLayout& m = args.layout;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= m.rows()) return;
  const T* const x = static_cast<const T*>(args.x) + offset_of_row(m, row);
  Stats<A> s{A(0), A(0), widen(x[0]), 0};
  const int positions = static_cast<int>(m.positions);
#pragma unroll 8
  for (int p = 0; p < positions; ++p) accumulate(s, widen(x[p * m.stride_position]), p);
  write_stats(args, row, s);
}

// One block per group and kGateSamples samples. A warp takes one hidden unit (then one output
// channel) at a time and serves all samples with each weight it reads.
template <class T>
__global__ void __launch_bounds__(kThreads) gate(const ForwardArgs args) {
  using A = Accumulate<T>;
  FK_DYN_SHARED(A, hidden);  // [kGateSamples][R]: relu of both paths, added
  const int channels = static_cast<int>(args.layout.channels);
  const int units = static_cast<int>(args.hidden);
  const int64_t group = blockIdx.y, batch = args.layout.batch;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kGateSamples;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

  int64_t at[kGateSamples];  // offset of each sample's statistics; the last sample fills the rest
  FK_UNROLL
  for (int i = 0; i < kGateSamples; ++i) {
    const int64_t sample = first + i < batch ? first + i : batch - 1;
    at[i] = (group * batch + sample) * channels;
  }
  const A* const mean = static_cast<const A*>(args.mean);
  const A* const max = static_cast<const A*>(args.max);

  for (int r = warp; r < units; r += kThreads / 32) {
    const A* const w1 = static_cast<const A*>(args.w1) + (group * units + r) * channels;
    A of_mean[kGateSamples] = {}, of_max[kGateSamples] = {};
    for (int c = lane; c < channels; c += 32) {
      const A w = w1[c];
      FK_UNROLL
      for (int i = 0; i < kGateSamples; ++i) {
        of_mean[i] += w * mean[at[i] + c];
        of_max[i] += w * max[at[i] + c];
      }
    }
    const A bias = static_cast<const A*>(args.b1)[group * units + r];
    FK_UNROLL
    for (int i = 0; i < kGateSamples; ++i) {
      FK_UNROLL
      for (int offset = 16; offset > 0; offset /= 2) {
        of_mean[i] += __shfl_xor_sync(0xffffffffu, of_mean[i], offset);
        of_max[i] += __shfl_xor_sync(0xffffffffu, of_max[i], offset);
      }
      if (lane == 0) hidden[i * units + r] = relu(of_mean[i] + bias) + relu(of_max[i] + bias);
    }
  }
  __syncthreads();

  for (int c = threadIdx.x; c < channels; c += kThreads) {
    const A* const w2 = static_cast<const A*>(args.w2) + (group * channels + c) * units;
    A z[kGateSamples] = {};
    for (int r = 0; r < units; ++r) {
      const A w = w2[r];
      FK_UNROLL
      for (int i = 0; i < kGateSamples; ++i) z[i] += w * hidden[i * units + r];
    }
    const A bias = A(2) * static_cast<const A*>(args.b2)[group * channels + c];
    FK_UNROLL
    for (int i = 0; i < kGateSamples; ++i) {
      if (first + i >= batch) continue;
      const A scale = sigmoid(z[i] + bias);
      const A pooled =
          args.average ? static_cast<const A*>(args.relu_mean)[at[i] + c] : relu(max[at[i] + c]);
      static_cast<A*>(args.scale)[at[i] + c] = scale;
      static_cast<T*>(args.out)[at[i] + c] = narrow_to<T>(scale * pooled);
    }
  }
}

// What a row gives to the gradient of its positions.
template <class A>
struct RowGradient {
  A everywhere;
  A where_positive;  // only for pool = average
  A at_maximum;
  int argmax;

  __device__ __forceinline__ RowGradient(const BackwardArgs& args, int64_t row, A inverse)
      : everywhere(static_cast<const A*>(args.d_mean)[row] * inverse),
        where_positive(args.x ? static_cast<const A*>(args.d_relu_mean)[row] * inverse : A(0)),
        at_maximum(static_cast<const A*>(args.d_max)[row]),
        argmax(args.argmax[row]) {}

  __device__ __forceinline__ A at(int64_t position, A x) const {
    A d = everywhere;
    if (x > A(0)) d += where_positive;
    if (position == argmax) d += at_maximum;
    return d;
  }
};

// Write-only for pool = max. Any layout, one thread per element in memory order: kRows says whether
// positions (NCHW) or channels (channels_last) are the fast dimension.
template <class T, bool kRows>
__global__ void __launch_bounds__(kThreads) pool_backward(const BackwardArgs args) {
  using A = Accumulate<T>;
  const MapLayout& m = args.layout;
  const int64_t element = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (element >= m.rows() * m.positions) return;
  const int64_t gb = element / (m.channels * m.positions);
  const int64_t in_sample = element - gb * m.channels * m.positions;
  const int64_t slow = in_sample / (kRows ? m.positions : m.channels);
  const int64_t fast = in_sample - slow * (kRows ? m.positions : m.channels);
  const int64_t row = gb * m.channels + (kRows ? slow : fast), p = kRows ? fast : slow;
  const int64_t offset = offset_of_row(m, row) + p * m.stride_position;
  const RowGradient<A> gradient(args, row, A(1) / static_cast<A>(m.positions));
  const A x = args.x ? widen(static_cast<const T*>(args.x)[offset]) : A(0);
  static_cast<T*>(args.dx)[offset] = narrow_to<T>(gradient.at(p, x));
}

// NCHW without gaps, rows of at least kPack positions: kPack elements lie in one row or two.
template <class T>
__global__ void __launch_bounds__(kThreads) pool_backward_of_rows(const BackwardArgs args) {
  using A = Accumulate<T>;
  const MapLayout& m = args.layout;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kPack;
  if (first >= m.rows() * m.positions) return;
  const int64_t row = first / m.positions;
  const int positions = static_cast<int>(m.positions);
  const int p = static_cast<int>(first - row * m.positions);
  const A inverse = A(1) / static_cast<A>(positions);
  const RowGradient<A> low(args, row, inverse);
  const RowGradient<A> high(args, row + 1 < m.rows() ? row + 1 : row, inverse);
  Pack<T, kPack> x{}, dx;
  if (args.x != nullptr) x = load_pack<T, kPack>(args.x, first);
  FK_UNROLL
  for (int i = 0; i < kPack; ++i) {
    const A value = widen(x.values[i]);
    const bool is_low = p + i < positions;
    dx.values[i] = narrow_to<T>(is_low ? low.at(p + i, value) : high.at(p + i - positions, value));
  }
  store_pack(args.dx, first, dx);
}

// channels_last without gaps: kPack neighbouring channels at up to kRun positions, so that what
// their rows give is read once for all of these.
template <class T>
__global__ void __launch_bounds__(kThreads)
    pool_backward_of_columns(const BackwardArgs args, const int64_t runs) {
  using A = Accumulate<T>;
  const MapLayout& m = args.layout;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t packs = m.channels / kPack;
  const int64_t sample_run = item / packs;
  const int64_t sample = sample_run / runs;
  if (sample >= m.groups * m.batch) return;
  const int64_t channel = (item - sample_run * packs) * kPack;
  const int64_t row = sample * m.channels + channel;
  const A inverse = A(1) / static_cast<A>(m.positions);
  const auto d_mean = load_pack<A, kPack>(args.d_mean, row);
  const auto d_max = load_pack<A, kPack>(args.d_max, row);
  const auto argmax = load_pack<int32_t, kPack>(args.argmax, row);
  Pack<A, kPack> d_relu_mean{};
  if (args.x != nullptr) d_relu_mean = load_pack<A, kPack>(args.d_relu_mean, row);
  const int begin = static_cast<int>(sample_run - sample * runs) * kRun;
  const int end = begin + kRun < m.positions ? begin + kRun : static_cast<int>(m.positions);
  for (int p = begin; p < end; ++p) {
    const int64_t at = (sample * m.positions + p) * m.channels + channel;
    Pack<T, kPack> x{}, dx;
    if (args.x != nullptr) x = load_pack<T, kPack>(args.x, at);
    FK_UNROLL
    for (int i = 0; i < kPack; ++i) {
      A d = d_mean.values[i] * inverse;
      if (widen(x.values[i]) > A(0)) d += d_relu_mean.values[i] * inverse;
      if (argmax.values[i] == p) d += d_max.values[i];
      dx.values[i] = narrow_to<T>(d);
    }
    store_pack(args.dx, at, dx);
  }
}

template <class T>
void launch_stats(const ForwardArgs& args, Stream stream) {
  const MapLayout& m = args.layout;
  const int64_t rows = m.rows();
  auto run = [&](const char* name, int64_t threads_per_row, auto kernel) {
    launch(name, blocks_for(rows * threads_per_row, kThreads), kThreads, 0, stream, kernel, args);
  };
  if (m.stride_position != 1) {
    run("mlca::stats_of_columns", 1, stats_of_columns<T>);
  } else if (m.positions <= 64) {
    run("mlca::stats_of_rows", 8, stats_of_rows<T, 8>);
  } else if (m.positions <= 1024) {
    run("mlca::stats_of_rows", 32, stats_of_rows<T, 32>);
  } else {
    run("mlca::stats_of_long_rows", kThreads, stats_of_long_rows<T>);
  }
}

template <class T>
void launch_gate(const ForwardArgs& args, Stream stream) {
  const MapLayout& m = args.layout;
  const dim3 grid(static_cast<unsigned>((m.batch + kGateSamples - 1) / kGateSamples),
                  static_cast<unsigned>(m.groups));
  const size_t shared = kGateSamples * args.hidden * sizeof(Accumulate<T>);
  launch("mlca::gate", grid, kThreads, shared, stream, gate<T>, args);
}

}  // namespace

void forward_cuda(const ForwardArgs& args, Stream stream) {
  dispatch_floating<__half, __nv_bfloat16>(args.dtype, [&]<class T>() {
    launch_stats<T>(args, stream);
    if (!args.pools_only) launch_gate<T>(args, stream);
  });
}

template <class T>
static void launch_backward(const BackwardArgs& args, Stream stream) {
  using A = Accumulate<T>;
  const MapLayout& m = args.layout;
  const int64_t elements = m.rows() * m.positions;
  const bool gapless = m.stride_batch == m.channels * m.positions &&
                       m.stride_group == m.batch * m.stride_batch && elements % kPack == 0 &&
                       packable<T, kPack>(args.dx, 0) && packable<T, kPack>(args.x, 0);
  auto run = [&](const char* name, int64_t threads, auto kernel) {
    launch(name, blocks_for(threads, kThreads), kThreads, 0, stream, kernel, args);
  };
  if (m.stride_position == 1) {
    if (gapless && m.stride_channel == m.positions && m.positions >= kPack) {
      run("mlca::pool_backward_of_rows", elements / kPack, pool_backward_of_rows<T>);
    } else {
      run("mlca::pool_backward", elements, pool_backward<T, true>);
    }
  } else {
    const bool packed =
        packable<A, kPack>(args.d_mean, m.channels) && packable<A, kPack>(args.d_max, 0) &&
        packable<A, kPack>(args.d_relu_mean, 0) && packable<int32_t, kPack>(args.argmax, 0);
    if (gapless && packed && m.stride_channel == 1 && m.stride_position == m.channels) {
      const int64_t runs = (m.positions + kRun - 1) / kRun;
      launch("mlca::pool_backward_of_columns", blocks_for(m.rows() / kPack * runs, kThreads),
             kThreads, 0, stream, pool_backward_of_columns<T>, args, runs);
    } else {
      run("mlca::pool_backward", elements, pool_backward<T, false>);
    }
  }
}

void backward_cuda(const BackwardArgs& args, Stream stream) {
  dispatch_floating<__half, __nv_bfloat16>(args.dtype,
                                           [&]<class T>() { launch_backward<T>(args, stream); });
}

}  // namespace facekernels::mlca
