// The gate's two layers and their gradients for a few samples of a group. Compiled once per CPU
// variant, as part of mlca_cpu.cpp.
#pragma once

#include <algorithm>

#include "core/simd.h"
#include "core/simd_math.h"
#include "core/simd_run.h"
#include "mlca/mlca.h"
#include "mlca/mlca_math.h"

namespace facekernels::mlca::FK_CPU_VARIANT {
namespace {

using namespace facekernels::FK_CPU_VARIANT;

template <class A>
Vec<A> relu_of(Vec<A> v) {
  return v <= Vec<A>{} ? Vec<A>{} : v;
}

// y[row, n] = bias_scale * bias[n] + sum_k a[row, k] w[n, k]: both operands contiguous along k, so
// a tile of kTile x kTile dot products runs over k in vectors and is reduced once at the end.
template <class A>
void linear(const A* a, int64_t rows, const A* w, const A* bias, A bias_scale, int64_t outputs,
            int64_t depth, A* y, int64_t y_step) {
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
          y[(r0 + i) * y_step + n0 + j] = dot + bias_scale * bias[n0 + j];
        }
      }
    }
  }
}

// A matrix read value by value, with any steps.
template <class A>
struct Factors {
  const A* data;
  int64_t row_step, depth_step;
};

// Rows r0 and following, and kVectors vectors of columns, of which a partial one has `count` lanes.
template <int kVectors, class A, bool kFull>
inline __attribute__((always_inline)) void multiply_tile(
    const Factors<A>& a, int64_t r0, int64_t rows, const A* b, int64_t b_step, int64_t depth,
    A* out, int64_t out_step, bool add_to, std::bool_constant<kFull> full, int64_t count) {
  constexpr int kTile = 4;
  constexpr int kWidth = kLanes<A>;
  const A* ar[kTile];  // rows past the end repeat the last one and are not stored
  for (int i = 0; i < kTile; ++i) ar[i] = a.data + std::min(r0 + i, rows - 1) * a.row_step;
  Vec<A> tile[kTile][kVectors] = {};
  for (int64_t k = 0; k < depth; ++k) {
    Vec<A> bv[kVectors];
    for (int j = 0; j < kVectors; ++j) bv[j] = load_lanes(b + k * b_step + j * kWidth, full, count);
    for (int i = 0; i < kTile; ++i) {
      const Vec<A> av = splat(ar[i][k * a.depth_step]);
      for (int j = 0; j < kVectors; ++j) tile[i][j] += av * bv[j];
    }
  }
  for (int i = 0; i < kTile && r0 + i < rows; ++i) {
    for (int j = 0; j < kVectors; ++j) {
      A* const to = out + (r0 + i) * out_step + j * kWidth;
      if (add_to) tile[i][j] += load_lanes(to, full, count);
      store_lanes(to, tile[i][j], full, count);
    }
  }
}

// out[row, n] = sum_k a[row, k] b[k, n], added to what is there where `add_to` says so. b and out
// are contiguous along n.
template <class A>
void multiply(const Factors<A>& a, int64_t rows, const A* b, int64_t b_step, int64_t columns,
              int64_t depth, A* out, int64_t out_step, bool add_to = false) {
  constexpr int kTile = 4;
  constexpr int kPair = 2 * kLanes<A>;
  int64_t n = 0;
  for (; n + kPair <= columns; n += kPair) {
    for (int64_t r = 0; r < rows; r += kTile) {
      multiply_tile<2>(a, r, rows, b + n, b_step, depth, out + n, out_step, add_to,
                       std::true_type{}, kLanes<A>);
    }
  }
  for_each_vector<A>(columns - n, [&](int64_t j, auto full, int64_t count) {
    for (int64_t r = 0; r < rows; r += kTile) {
      multiply_tile<1>(a, r, rows, b + n + j, b_step, depth, out + n + j, out_step, add_to, full,
                       count);
    }
  });
}

// relu of both paths of `count` samples, added.
template <class A>
void add_paths(const A* pre, int64_t count, int64_t units, A* sums) {
  for (int64_t i = 0; i < count; ++i) {
    const A* const of_mean = pre + 2 * i * units;
    for (int64_t r = 0; r < units; ++r) {
      sums[i * units + r] = relu(of_mean[r]) + relu(of_mean[units + r]);
    }
  }
}

// `count` consecutive samples of a group, from row `row` of [G B, ...] on.
template <class T, class A = Accumulate<T>>
void gate(const ForwardArgs& args, int64_t group, int64_t row, int64_t count, A* sums) {
  const int64_t channels = args.layout.channels, units = args.hidden, at = row * channels;
  const A* const max = static_cast<const A*>(args.max) + at;
  const A* const w1 = static_cast<const A*>(args.w1) + group * units * channels;
  const A* const b1 = static_cast<const A*>(args.b1) + group * units;
  A* const scale = static_cast<A*>(args.scale) + at;
  A* const pre = static_cast<A*>(args.pre) + 2 * row * units;
  linear(static_cast<const A*>(args.mean) + at, count, w1, b1, A(1), units, channels, pre,
         2 * units);
  linear(max, count, w1, b1, A(1), units, channels, pre + units, 2 * units);
  // The second layer is linear: both paths go through it once, added.
  add_paths(pre, count, units, sums);
  linear(sums, count, static_cast<const A*>(args.w2) + group * channels * units,
         static_cast<const A*>(args.b2) + group * channels, A(2), channels, units, scale, channels);

  T* const out = static_cast<T*>(args.out) + at;
  const A* const pooled = args.average ? static_cast<const A*>(args.relu_mean) + at : max;
  for_each_vector<A>(count * channels, [&](int64_t i, auto full, int64_t lanes) {
    const Vec<A> s = sigmoid_of<A>(load_lanes(scale + i, full, lanes));
    store_lanes(scale + i, s, full, lanes);
    // The mean of relu is not negative.
    store_lanes(out + i, s * relu_of<A>(load_lanes(pooled + i, full, lanes)), full, lanes);
  });
}

// dz, d_pre and the gradients of the pools, of `count` samples from row `row` on.
template <class T, class A = Accumulate<T>>
void gate_backward(const GateBackwardArgs& args, int64_t group, int64_t row, int64_t count) {
  const int64_t channels = args.channels, units = args.hidden, at = row * channels;
  const A* const w1 = static_cast<const A*>(args.w1) + group * units * channels;
  const A* const w2 = static_cast<const A*>(args.w2) + group * units * channels;
  const A* const scale = static_cast<const A*>(args.scale) + at;
  const A* const max = static_cast<const A*>(args.max) + at;
  const A* const pooled = args.average ? static_cast<const A*>(args.relu_mean) + at : max;
  const T* const d_out = args.d_out ? static_cast<const T*>(args.d_out) + at : nullptr;
  const A* const d_scale = args.d_scale ? static_cast<const A*>(args.d_scale) + at : nullptr;
  const A* const pre = static_cast<const A*>(args.pre) + 2 * row * units;
  A* const dz = static_cast<A*>(args.dz) + at;
  A* const d_pre = static_cast<A*>(args.d_pre) + 2 * row * units;

  for_each_vector<A>(count * channels, [&](int64_t i, auto full, int64_t lanes) {
    Vec<A> d{};
    if (d_out) {
      d = load_lanes(d_out + i, full, lanes) * relu_of<A>(load_lanes(pooled + i, full, lanes));
    }
    if (d_scale) d += load_lanes(d_scale + i, full, lanes);
    const Vec<A> s = load_lanes(scale + i, full, lanes);
    store_lanes(dz + i, d * s * (splat(A(1)) - s), full, lanes);
  });

  multiply<A>({dz, channels, 1}, count, w2, units, units, channels, d_pre, 2 * units);
  for (int64_t i = 0; i < count; ++i) {
    const A* const p = pre + 2 * i * units;
    A* const d = d_pre + 2 * i * units;
    for (int64_t r = 0; r < units; ++r) {
      const A dh = d[r];
      d[r] = passes_relu(p[r]) ? dh : A(0);
      d[units + r] = passes_relu(p[units + r]) ? dh : A(0);
    }
  }
  if (!args.d_mean) return;

  A* const d_mean = static_cast<A*>(args.d_mean) + at;
  A* const d_max = static_cast<A*>(args.d_max) + at;
  multiply<A>({d_pre, 2 * units, 1}, count, w1, channels, channels, units, d_mean, channels);
  multiply<A>({d_pre + units, 2 * units, 1}, count, w1, channels, channels, units, d_max, channels);
  if (!d_out && !args.average) return;
  A* const d_pooled = args.average ? static_cast<A*>(args.d_relu_mean) + at : nullptr;
  for_each_vector<A>(count * channels, [&](int64_t i, auto full, int64_t lanes) {
    Vec<A> d{};
    if (d_out) d = load_lanes(d_out + i, full, lanes) * load_lanes(scale + i, full, lanes);
    if (d_pooled) {
      store_lanes(d_pooled + i, d, full, lanes);
    } else {
      const Vec<A> passed = load_lanes(max + i, full, lanes) <= Vec<A>{} ? Vec<A>{} : d;
      store_lanes(d_max + i, load_lanes(d_max + i, full, lanes) + passed, full, lanes);
    }
  });
}

// Gradients of the weights of `count` channels from `first` on, and with the first ones db1.
// `hidden` is [B, R]: relu of both paths, added.
template <class A>
void weight_gradients(const GateBackwardArgs& args, int64_t group, int64_t first, int64_t count,
                      const A* hidden) {
  const int64_t channels = args.channels, units = args.hidden, batch = args.batch;
  const int64_t at = group * batch * channels + first;
  const A* const dz = static_cast<const A*>(args.dz) + at;
  const A* const d_pre = static_cast<const A*>(args.d_pre) + 2 * group * batch * units;
  A* const dw1 = static_cast<A*>(args.dw1) + group * units * channels + first;
  A* const dw2 = static_cast<A*>(args.dw2) + (group * channels + first) * units;
  multiply<A>({d_pre, 1, 2 * units}, units, static_cast<const A*>(args.mean) + at, channels, count,
              batch, dw1, channels);
  multiply<A>({d_pre + units, 1, 2 * units}, units, static_cast<const A*>(args.max) + at, channels,
              count, batch, dw1, channels, true);
  multiply<A>({dz, 1, channels}, count, hidden, units, units, batch, dw2, units);

  const A one = 1, two = 2;  // a row of equal factors sums the batch
  multiply<A>({&two, 0, 0}, 1, dz, channels, count, batch,
              static_cast<A*>(args.db2) + group * channels + first, channels);
  if (first != 0) return;
  A* const db1 = static_cast<A*>(args.db1) + group * units;
  multiply<A>({&one, 0, 0}, 1, d_pre, 2 * units, units, batch, db1, units);
  multiply<A>({&one, 0, 0}, 1, d_pre + units, 2 * units, units, batch, db1, units, true);
}

}  // namespace
}  // namespace facekernels::mlca::FK_CPU_VARIANT
