// The gate and its gradient, for a few samples of a group per block.
#pragma once

#include "core/cuda_dtype.cuh"
#include "mlca/mlca.h"
#include "mlca/mlca_math.h"
#include "mlca/mlca_products.cuh"

namespace facekernels::mlca {

template <class A>
constexpr int kGateSamples = 32 / sizeof(A);  // of a block
template <class A>
constexpr int kPaths = 2 * kGateSamples<A>;  // rows of the products that have a mean and a max each
constexpr int kUnits = 32;                   // hidden units at a time

// The samples of a block. Rows past the batch repeat its last sample and are not written.
template <class A>
struct GateBlock {
  int64_t group, batch, first;
  int channels, units;

  __device__ __forceinline__ GateBlock(int64_t batch, int64_t channels, int64_t units)
      : group(blockIdx.y),
        batch(batch),
        first(static_cast<int64_t>(blockIdx.x) * kGateSamples<A>),
        channels(static_cast<int>(channels)),
        units(static_cast<int>(units)) {}

  __device__ __forceinline__ bool has(int i) const { return first + i < batch; }
  __device__ __forceinline__ int64_t sample(int i) const {
    return group * batch + (has(i) ? first + i : batch - 1);
  }
  // Row i of [G, B, C].
  __device__ __forceinline__ int64_t of_channels(int i) const { return sample(i) * channels; }
  // Row i of [G, B, 2, R], means first.
  __device__ __forceinline__ int64_t of_path(int i) const {
    const int path = i / kGateSamples<A>;
    return (2 * sample(i % kGateSamples<A>) + path) * units;
  }
};

// Last valid index where a thread or lane has none of its own.
__device__ __forceinline__ int within(int index, int size) {
  return index < size ? index : size - 1;
}

// `packed`: rows of w1 and w2 can be read by Quads.
template <class T>
__global__ void __launch_bounds__(kThreads) gate(const ForwardArgs args, const bool packed) {
  using A = Accumulate<T>;
  using Paths = StagedRows<A, kPaths<A>>;
  using Samples = StagedRows<A, kGateSamples<A>>;
  FK_SHARED(Paths, paths, );
  FK_SHARED(Samples, samples, );
  FK_SHARED(A, partial, [kWarps][kPaths<A>][32]);
  const GateBlock<A> block(args.layout.batch, args.layout.channels, args.hidden);
  const int channels = block.channels, units = block.units;
  const A* const mean = static_cast<const A*>(args.mean);
  const A* const max = static_cast<const A*>(args.max);
  A* const pre = static_cast<A*>(args.pre);

  for (int begin = 0; begin < units; begin += kUnits) {
    const int64_t unit = block.group * units + within(begin + threadIdx.x % 32, units);
    const Column<A> w1{static_cast<const A*>(args.w1) + unit * channels, 1, channels, packed};
    const A bias = static_cast<const A*>(args.b1)[unit];
    multiply_narrow<kPaths<A>>(
        paths, partial, w1,
        [&](int row, int c) {
          // Not in one expression: g++ 12 with -fsanitize=undefined loses `row` in it.
          const A* const stats = row < kGateSamples<A> ? mean : max;
          return stats[block.of_channels(row % kGateSamples<A>) + c];
        },
        [&](int row, int lane, A sum) {
          if (block.has(row % kGateSamples<A>) && begin + lane < units) {
            pre[block.of_path(row) + begin + lane] = sum + bias;
          }
        });
  }

  for (int begin = 0; begin < channels; begin += kThreads) {
    const int c = begin + threadIdx.x;
    const int64_t row = block.group * channels + within(c, channels);
    const Column<A> w2{static_cast<const A*>(args.w2) + row * units, 1, units, packed};
    A z[kGateSamples<A>] = {};
    multiply_wide<kGateSamples<A>>(z, samples, w2, [&](int i, int r) {
      return relu(pre[block.of_path(i) + r]) + relu(pre[block.of_path(i + kGateSamples<A>) + r]);
    });
    if (c >= channels) continue;
    const A bias = A(2) * static_cast<const A*>(args.b2)[row];
    FK_UNROLL
    for (int i = 0; i < kGateSamples<A>; ++i) {
      if (!block.has(i)) continue;
      const int64_t at = block.of_channels(i) + c;
      const A scale = sigmoid(z[i] + bias);
      const A pooled = args.average ? static_cast<const A*>(args.relu_mean)[at] : relu(max[at]);
      static_cast<A*>(args.scale)[at] = scale;
      static_cast<T*>(args.out)[at] = narrow_to<T>(scale * pooled);
    }
  }
}

// dz, d_pre and the gradients of the pools.
template <class T>
__global__ void __launch_bounds__(kThreads) gate_backward(const GateBackwardArgs args) {
  using A = Accumulate<T>;
  using Samples = StagedRows<A, kGateSamples<A>>;
  FK_SHARED(Samples, samples, );
  FK_SHARED(A, partial, [kWarps][kGateSamples<A>][32]);
  const GateBlock<A> block(args.batch, args.channels, args.hidden);
  const int channels = block.channels, units = block.units;
  const A* const max = static_cast<const A*>(args.max);
  A* const dz = static_cast<A*>(args.dz);
  A* const d_pre = static_cast<A*>(args.d_pre);
  auto d_out = [&](int64_t at) {
    return args.d_out == nullptr ? A(0) : widen(static_cast<const T*>(args.d_out)[at]);
  };
  auto scale = [&](int64_t at) { return static_cast<const A*>(args.scale)[at]; };

  for (int c = threadIdx.x; c < channels; c += kThreads) {
    FK_UNROLL
    for (int i = 0; i < kGateSamples<A>; ++i) {
      const int64_t at = block.of_channels(i) + c;
      const A pooled = args.average ? static_cast<const A*>(args.relu_mean)[at] : relu(max[at]);
      A d_scale = d_out(at) * pooled;
      if (args.d_scale != nullptr) d_scale += static_cast<const A*>(args.d_scale)[at];
      const A s = scale(at);
      if (block.has(i)) dz[at] = d_scale * s * (A(1) - s);
    }
  }
  __syncthreads();

  for (int begin = 0; begin < units; begin += kUnits) {
    const int unit = within(begin + threadIdx.x % 32, units);
    const Column<A> w2{static_cast<const A*>(args.w2) + block.group * channels * units + unit,
                       units, channels, false};
    multiply_narrow<kGateSamples<A>>(
        samples, partial, w2, [&](int i, int c) { return dz[block.of_channels(i) + c]; },
        [&](int i, int lane, A sum) {
          if (!block.has(i) || begin + lane >= units) return;
          for (int path = i; path < kPaths<A>; path += kGateSamples<A>) {
            const int64_t at = block.of_path(path) + begin + lane;
            d_pre[at] = passes_relu(static_cast<const A*>(args.pre)[at]) ? sum : A(0);
          }
        });
  }
  if (args.d_mean == nullptr) return;

  for (int begin = 0; begin < channels; begin += kThreads) {
    const int c = begin + threadIdx.x;
    const Column<A> w1{
        static_cast<const A*>(args.w1) + block.group * units * channels + within(c, channels),
        channels, units, false};
    // One path after the other: both at once take more registers than there are.
    A of_mean[kGateSamples<A>] = {}, of_max[kGateSamples<A>] = {};
    multiply_wide<kGateSamples<A>>(of_mean, samples, w1,
                                   [&](int i, int r) { return d_pre[block.of_path(i) + r]; });
    FK_UNROLL
    for (int i = 0; i < kGateSamples<A>; ++i) {
      if (c < channels && block.has(i)) {
        static_cast<A*>(args.d_mean)[block.of_channels(i) + c] = of_mean[i];
      }
    }
    multiply_wide<kGateSamples<A>>(of_max, samples, w1, [&](int i, int r) {
      return d_pre[block.of_path(i + kGateSamples<A>) + r];
    });
    if (c >= channels) continue;
    FK_UNROLL
    for (int i = 0; i < kGateSamples<A>; ++i) {
      if (!block.has(i)) continue;
      const int64_t at = block.of_channels(i) + c;
      A d_max = of_max[i];
      if (args.d_out != nullptr || args.average) {
        const A d_pooled = args.d_out == nullptr ? A(0) : d_out(at) * scale(at);
        if (args.average) {
          static_cast<A*>(args.d_relu_mean)[at] = d_pooled;
        } else {
          if (passes_relu(max[at])) d_max += d_pooled;
        }
      }
      static_cast<A*>(args.d_max)[at] = d_max;
    }
  }
}

// Tile of the weights' gradients that a block owns: it sums the whole batch in a fixed order.
constexpr int kTileChannels = 16;
constexpr int kTileUnits = kUnits;
constexpr int kBatchStage = 16;                 // samples in shared memory at a time
constexpr int kOwnChannels = 2, kOwnUnits = 4;  // of a thread
constexpr int kTileThreads = kTileChannels / kOwnChannels * kTileUnits / kOwnUnits;
constexpr int kSlices = kThreads / kTileThreads;  // of the samples in a stage, added in order

template <class A>
struct WeightStage {
  using OfChannels = Pack<A, kOwnChannels>[kBatchStage][kTileChannels / kOwnChannels];
  using OfUnits = Pack<A, kOwnUnits>[kBatchStage][kTileUnits / kOwnUnits];
  OfUnits d_pre_mean, d_pre_max, hidden;
  OfChannels mean, max, dz;

  static __device__ __forceinline__ A& at(OfChannels& of, int sample, int channel) {
    return of[sample][channel / kOwnChannels].values[channel % kOwnChannels];
  }
  static __device__ __forceinline__ A& at(OfUnits& of, int sample, int unit) {
    return of[sample][unit / kOwnUnits].values[unit % kOwnUnits];
  }
};

template <class A>
struct WeightTile {
  A dw1[kTileUnits][kTileChannels + 1], dw2[kTileUnits][kTileChannels + 1];
};

template <class A>
__device__ __forceinline__ void stage_weights(WeightStage<A>& s, const GateBackwardArgs& args,
                                              int64_t first_sample, int first_channel,
                                              int first_unit) {
  const int64_t group_row = static_cast<int64_t>(blockIdx.z) * args.batch;
  for (int i = threadIdx.x; i < kBatchStage * kTileChannels; i += kThreads) {
    const int b = i / kTileChannels, c = i % kTileChannels;
    const bool exists = first_sample + b < args.batch && first_channel + c < args.channels;
    const int64_t at = (group_row + first_sample + b) * args.channels + first_channel + c;
    s.at(s.mean, b, c) = exists ? static_cast<const A*>(args.mean)[at] : A(0);
    s.at(s.max, b, c) = exists ? static_cast<const A*>(args.max)[at] : A(0);
    s.at(s.dz, b, c) = exists ? static_cast<const A*>(args.dz)[at] : A(0);
  }
  for (int i = threadIdx.x; i < kBatchStage * kTileUnits; i += kThreads) {
    const int b = i / kTileUnits, r = i % kTileUnits;
    const bool exists = first_sample + b < args.batch && first_unit + r < args.hidden;
    const int64_t at = 2 * (group_row + first_sample + b) * args.hidden + first_unit + r;
    const A* const pre = static_cast<const A*>(args.pre) + at;
    const A* const d_pre = static_cast<const A*>(args.d_pre) + at;
    s.at(s.d_pre_mean, b, r) = exists ? d_pre[0] : A(0);
    s.at(s.d_pre_max, b, r) = exists ? d_pre[args.hidden] : A(0);
    s.at(s.hidden, b, r) = exists ? relu(pre[0]) + relu(pre[args.hidden]) : A(0);
  }
}

template <class A>
__global__ void __launch_bounds__(kThreads) weight_gradients(const GateBackwardArgs args) {
  FK_SHARED(WeightStage<A>, stage, );
  FK_SHARED(WeightTile<A>, tile, );
  const int first_channel = blockIdx.x * kTileChannels, first_unit = blockIdx.y * kTileUnits;
  const int thread = threadIdx.x, slice = thread / kTileThreads;
  const int own_channels = thread % (kTileChannels / kOwnChannels);  // packs of them
  const int own_units = thread % kTileThreads / (kTileChannels / kOwnChannels);
  A dw1[kOwnUnits][kOwnChannels] = {}, dw2[kOwnUnits][kOwnChannels] = {};
  A bias = 0;  // db1 of the first warp's lanes, db2 of the second's

#pragma unroll 1
  for (int64_t sample = 0; sample < args.batch; sample += kBatchStage) {
    stage_weights(stage, args, sample, first_channel, first_unit);
    __syncthreads();
#pragma unroll 1
    for (int i = 0; i < kBatchStage / kSlices; ++i) {
      const int b = slice * (kBatchStage / kSlices) + i;
      const auto mean = stage.mean[b][own_channels], max = stage.max[b][own_channels];
      const auto dz = stage.dz[b][own_channels];
      const auto d_pre_mean = stage.d_pre_mean[b][own_units];
      const auto d_pre_max = stage.d_pre_max[b][own_units], hidden = stage.hidden[b][own_units];
      FK_UNROLL
      for (int u = 0; u < kOwnUnits; ++u) {
        FK_UNROLL
        for (int c = 0; c < kOwnChannels; ++c) {
          dw1[u][c] += d_pre_mean.values[u] * mean.values[c];
          dw1[u][c] += d_pre_max.values[u] * max.values[c];
          dw2[u][c] += hidden.values[u] * dz.values[c];
        }
      }
    }
    if (thread < kTileUnits && blockIdx.x == 0) {
      for (int b = 0; b < kBatchStage; ++b) {
        bias += stage.at(stage.d_pre_mean, b, thread) + stage.at(stage.d_pre_max, b, thread);
      }
    } else if (thread >= 32 && thread < 32 + kTileChannels && blockIdx.y == 0) {
      for (int b = 0; b < kBatchStage; ++b) bias += A(2) * stage.at(stage.dz, b, thread - 32);
    }
    __syncthreads();
  }

  for (int turn = 0; turn < kSlices; ++turn) {
    if (turn == slice) {
      FK_UNROLL
      for (int u = 0; u < kOwnUnits; ++u) {
        FK_UNROLL
        for (int c = 0; c < kOwnChannels; ++c) {
          A& w1 = tile.dw1[own_units * kOwnUnits + u][own_channels * kOwnChannels + c];
          A& w2 = tile.dw2[own_units * kOwnUnits + u][own_channels * kOwnChannels + c];
          w1 = turn == 0 ? dw1[u][c] : w1 + dw1[u][c];
          w2 = turn == 0 ? dw2[u][c] : w2 + dw2[u][c];
        }
      }
    }
    __syncthreads();
  }

  const int64_t group = blockIdx.z, channels = args.channels, units = args.hidden;
  for (int i = thread; i < kTileUnits * kTileChannels; i += kThreads) {
    const int of_rows = i / kTileChannels, along_rows = i % kTileChannels;
    if (first_unit + of_rows < units && first_channel + along_rows < channels) {
      static_cast<A*>(args.dw1)[(group * units + first_unit + of_rows) * channels + first_channel +
                                along_rows] = tile.dw1[of_rows][along_rows];
    }
    const int c = i / kTileUnits, r = i % kTileUnits;
    if (first_unit + r < units && first_channel + c < channels) {
      static_cast<A*>(args.dw2)[(group * channels + first_channel + c) * units + first_unit + r] =
          tile.dw2[r][c];
    }
  }
  if (thread < kTileUnits && blockIdx.x == 0 && first_unit + thread < units) {
    static_cast<A*>(args.db1)[group * units + first_unit + thread] = bias;
  } else if (thread >= 32 && thread < 32 + kTileChannels && blockIdx.y == 0 &&
             first_channel + thread - 32 < channels) {
    static_cast<A*>(args.db2)[group * channels + first_channel + thread - 32] = bias;
  }
}

}  // namespace facekernels::mlca
