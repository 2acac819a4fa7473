// Two launches forward (statistics, gate), one backward. See mlca.h for the maths.
#include "core/cuda_dtype.cuh"
#include "core/device.cuh"
#include "mlca/mlca.h"
#include "mlca/mlca_math.h"

namespace facekernels::mlca {
namespace {

constexpr int kThreads = 256;
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
  const int64_t c = row % m.channels, gb = row / m.channels;
  return gb / m.batch * m.stride_group + gb % m.batch * m.stride_batch + c * m.stride_channel;
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

// Write-only for pool = max. One thread per element in memory order: kRows says whether positions
// (NCHW) or channels (channels_last) are the fast dimension.
template <class T, bool kRows>
__global__ void __launch_bounds__(kThreads) pool_backward(const BackwardArgs args) {
  using A = Accumulate<T>;
  const MapLayout& m = args.layout;
  const int64_t element = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (element >= m.rows() * m.positions) return;
  const int64_t gb = element / (m.channels * m.positions);
  const int64_t in_sample = element % (m.channels * m.positions);
  const int64_t c = kRows ? in_sample / m.positions : in_sample % m.channels;
  const int64_t p = kRows ? in_sample % m.positions : in_sample / m.channels;
  const int64_t row = gb * m.channels + c;
  const int64_t offset = offset_of_row(m, row) + p * m.stride_position;

  const A inverse = A(1) / static_cast<A>(m.positions);
  A d = static_cast<const A*>(args.d_mean)[row] * inverse;
  if (args.x != nullptr && widen(static_cast<const T*>(args.x)[offset]) > A(0)) {
    d += static_cast<const A*>(args.d_relu_mean)[row] * inverse;
  }
  if (args.argmax[row] == p) d += static_cast<const A*>(args.d_max)[row];
  static_cast<T*>(args.dx)[offset] = narrow_to<T>(d);
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

void backward_cuda(const BackwardArgs& args, Stream stream) {
  const MapLayout& m = args.layout;
  const dim3 grid = blocks_for(m.rows() * m.positions, kThreads);
  dispatch_floating<__half, __nv_bfloat16>(args.dtype, [&]<class T>() {
    if (m.stride_position == 1) {
      launch("mlca::pool_backward", grid, kThreads, 0, stream, pool_backward<T, true>, args);
    } else {
      launch("mlca::pool_backward", grid, kThreads, 0, stream, pool_backward<T, false>, args);
    }
  });
}

}  // namespace facekernels::mlca
