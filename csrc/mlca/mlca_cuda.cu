// Two launches forward (statistics, gate), three backward (gate, weights, map). See mlca.h for the
// maths.
#include "core/cuda_dtype.cuh"
#include "core/device.cuh"
#include "core/pack.cuh"
#include "mlca/mlca.h"
#include "mlca/mlca_gate.cuh"
#include "mlca/mlca_math.h"

namespace facekernels::mlca {
namespace {

constexpr int kPack = 4;         // elements that a thread reads or writes at once
constexpr int kSpan = 4096;      // elements of dx that a block of rows writes
constexpr int kRun = 8;          // positions of one thread that owns channels
constexpr int kOwnedRows = 128;  // rows of a block whose threads own one each
constexpr int64_t kOwnedBytes = 48 * 1024;

template <class A>
struct Stats {
  A sum;
  A relu_sum;
  A max;
  int index;
};

// The next position of a thread: an equal maximum came earlier.
template <class A>
__device__ __forceinline__ void accumulate(Stats<A>& s, A value, int position) {
  s.sum += value;
  s.relu_sum += relu(value);
  if (value > s.max) {
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

// NCHW: kLanes neighbouring lanes share a row and take kValues neighbouring positions at a time.
template <class T, int kLanes, int kValues>
__global__ void __launch_bounds__(kThreads) stats_of_rows(const ForwardArgs args) {
  using A = Accumulate<T>;
  const MapLayout& m = args.layout;
  const int64_t rows = m.rows();
  const int lane = threadIdx.x % kLanes;
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kLanes;
  // Lanes without a row of their own repeat the last one: the shuffles need every lane.
  const T* const x = static_cast<const T*>(args.x) + offset_of_row(m, row < rows ? row : rows - 1);
  const int positions = static_cast<int>(m.positions);
  const int first = lane * kValues < positions ? lane * kValues : positions - 1;
  Stats<A> s{A(0), A(0), widen(x[first]), first};
#pragma unroll 4
  for (int p = lane * kValues; p < positions; p += kLanes * kValues) {
    const auto values = load_pack<T, kValues>(x, p);
    FK_UNROLL
    for (int i = 0; i < kValues; ++i) accumulate(s, widen(values.values[i]), p + i);
  }
  combine_lanes<kLanes>(s);
  if (lane == 0 && row < rows) write_stats(args, row, s);
}

// Short rows of odd length, one after the other in memory: a block copies kOwnedRows of them by 16
// bytes and a thread owns a row. An odd step from row to row leaves every lane its own bank.
template <class T>
__global__ void __launch_bounds__(kOwnedRows) stats_of_owned_rows(const ForwardArgs args) {
  using A = Accumulate<T>;
  constexpr int kWord = sizeof(uint4) / sizeof(T);
  FK_DYN_SHARED(T, tile);
  const int positions = static_cast<int>(args.layout.positions);
  const int64_t rows = args.layout.rows();
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kOwnedRows;
  const int owned = first + kOwnedRows < rows ? kOwnedRows : static_cast<int>(rows - first);
  const int elements = owned * positions, words = elements / kWord;
  const T* const x = static_cast<const T*>(args.x) + first * positions;
#pragma unroll 4
  for (int i = threadIdx.x; i < words; i += kOwnedRows) {
    reinterpret_cast<uint4*>(tile)[i] = reinterpret_cast<const uint4*>(x)[i];
  }
  for (int i = words * kWord + threadIdx.x; i < elements; i += kOwnedRows) tile[i] = x[i];
  __syncthreads();
  const int thread = static_cast<int>(threadIdx.x);
  if (thread >= owned) return;
  const T* const row = tile + thread * positions;
  Stats<A> s{A(0), A(0), widen(row[0]), 0};
#pragma unroll 8
  for (int p = 0; p < positions; ++p) accumulate(s, widen(row[p]), p);
  write_stats(args, first + thread, s);
}

// Long rows: one block each, its warps combined in a fixed order.
template <class T>
__global__ void __launch_bounds__(kThreads) stats_of_long_rows(const ForwardArgs args) {
  using A = Accumulate<T>;
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

// What a row gives to the gradient of its positions.
template <class A>
struct RowGradient {
  A everywhere;
  A where_positive;  // only for pool = average
  A at_maximum;
  int argmax;

  static __device__ __forceinline__ RowGradient of(const BackwardArgs& args, int64_t row,
                                                   A inverse) {
    return {static_cast<const A*>(args.d_mean)[row] * inverse,
            args.x ? static_cast<const A*>(args.d_relu_mean)[row] * inverse : A(0),
            static_cast<const A*>(args.d_max)[row], args.argmax[row]};
  }

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
  const auto gradient = RowGradient<A>::of(args, row, A(1) / static_cast<A>(m.positions));
  const A x = args.x ? widen(static_cast<const T*>(args.x)[offset]) : A(0);
  static_cast<T*>(args.dx)[offset] = narrow_to<T>(gradient.at(p, x));
}

// NCHW without gaps, rows of at least kPack positions: kPack elements lie in one row or two. A
// block takes kSpan elements and reads what their rows give once.
template <class T>
__global__ void __launch_bounds__(kThreads) pool_backward_of_rows(const BackwardArgs args) {
  using A = Accumulate<T>;
  FK_SHARED(RowGradient<A>, gradients, [kSpan / kPack + 2]);
  const MapLayout& m = args.layout;
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kSpan;
  const int64_t left = m.rows() * m.positions - begin;
  const int count = left < kSpan ? static_cast<int>(left) : kSpan;
  const int64_t first_row = begin / m.positions;
  const uint32_t positions = static_cast<uint32_t>(m.positions);
  const uint32_t offset = static_cast<uint32_t>(begin - first_row * m.positions);
  const int rows = static_cast<int>((offset + count - 1) / positions) + 1;
  const A inverse = A(1) / static_cast<A>(positions);
  for (int i = threadIdx.x; i < rows; i += kThreads) {
    gradients[i] = RowGradient<A>::of(args, first_row + i, inverse);
  }
  __syncthreads();
  FK_UNROLL
  for (int i = 0; i < kSpan / (kThreads * kPack); ++i) {
    const int element = (i * kThreads + threadIdx.x) * kPack;
    if (element >= count) break;
    const int row = static_cast<int>((offset + element) / positions);
    const int p = static_cast<int>(offset + element - row * positions);
    const int end = static_cast<int>(positions) - p;  // of the row, from this pack on
    const auto low = gradients[row], high = gradients[end < kPack ? row + 1 : row];
    Pack<T, kPack> x{}, dx;
    if (args.x != nullptr) x = load_pack<T, kPack>(args.x, begin + element);
    FK_UNROLL
    for (int j = 0; j < kPack; ++j) {
      const A value = widen(x.values[j]);
      dx.values[j] = narrow_to<T>(j < end ? low.at(p + j, value) : high.at(j - end, value));
    }
    store_pack(args.dx, begin + element, dx);
  }
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
  const bool gapless = m.stride_channel == m.positions &&
                       m.stride_batch == m.channels * m.stride_channel &&
                       m.stride_group == m.batch * m.stride_batch;
  const int64_t tile_bytes = kOwnedRows * m.positions * sizeof(T);
  const bool packed = packable<T, kPack>(args.x, m.stride_channel) && m.stride_batch % kPack == 0 &&
                      m.stride_group % kPack == 0 && m.positions % kPack == 0;
  auto run = [&](const char* name, int64_t threads_per_row, auto kernel) {
    launch(name, blocks_for(rows * threads_per_row, kThreads), kThreads, 0, stream, kernel, args);
  };
  if (m.stride_position != 1) {
    run("mlca::stats_of_columns", 1, stats_of_columns<T>);
  } else if (gapless && m.positions % 2 == 1 && tile_bytes <= kOwnedBytes &&
             packable<uint4, 1>(args.x, 0)) {
    launch("mlca::stats_of_owned_rows", blocks_for(rows, kOwnedRows), kOwnedRows, tile_bytes,
           stream, stats_of_owned_rows<T>, args);
  } else if (m.positions > 1024) {
    run("mlca::stats_of_long_rows", kThreads, stats_of_long_rows<T>);
  } else if (packed) {
    run("mlca::stats_of_rows", 8, stats_of_rows<T, 8, kPack>);
  } else if (m.positions <= 64) {
    run("mlca::stats_of_rows", 8, stats_of_rows<T, 8, 1>);
  } else {
    run("mlca::stats_of_rows", 32, stats_of_rows<T, 32, 1>);
  }
}

template <class A>
dim3 gate_grid(int64_t batch, int64_t groups) {
  return {blocks_for(batch, kGateSamples<A>).x, static_cast<unsigned>(groups), 1};
}

template <class T>
void launch_gate(const ForwardArgs& args, Stream stream) {
  using A = Accumulate<T>;
  const bool packed =
      packable<A, 4>(args.w1, args.layout.channels) && packable<A, 4>(args.w2, args.hidden);
  launch("mlca::gate", gate_grid<A>(args.layout.batch, args.layout.groups), kThreads, 0, stream,
         gate<T>, args, packed);
}

}  // namespace

void forward_cuda(const ForwardArgs& args, Stream stream) {
  dispatch_floating<__half, __nv_bfloat16>(args.dtype, [&]<class T>() {
    launch_stats<T>(args, stream);
    if (!args.pools_only) launch_gate<T>(args, stream);
  });
}

void gate_backward_cuda(const GateBackwardArgs& args, Stream stream) {
  dispatch_floating<__half, __nv_bfloat16>(args.dtype, [&]<class T>() {
    launch("mlca::gate_backward", gate_grid<Accumulate<T>>(args.batch, args.groups), kThreads, 0,
           stream, gate_backward<T>, args);
    if (args.db2 == nullptr) return;
    const int64_t units = args.hidden > 0 ? args.hidden : 1;  // without any, db2 is left to do
    const dim3 grid(blocks_for(args.channels, kTileChannels).x, blocks_for(units, kTileUnits).x,
                    static_cast<unsigned>(args.groups));
    launch("mlca::weight_gradients", grid, kThreads, 0, stream, weight_gradients<Accumulate<T>>,
           args);
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
      launch("mlca::pool_backward_of_rows", blocks_for(elements, kSpan), kThreads, 0, stream,
             pool_backward_of_rows<T>, args);
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
