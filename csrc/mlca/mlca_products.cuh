// Products of a few rows by a matrix of weights, by one block: the rows are staged in shared memory
// with their depth outermost, a thread owns a column and serves all rows with every weight.
#pragma once

#include "core/device.cuh"
#include "core/pack.cuh"

namespace facekernels::mlca {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
template <class A>
constexpr int kStep = 32 / sizeof(A);  // depths whose weights a thread holds
template <class A>
constexpr int kStage = kWarps * kStep<A>;  // depths in shared memory at a time

template <class A>
using Quad = Pack<A, 4>;

// [kStage][kRows] as quads of rows. The pad lets neighbouring depths be stored without conflicts.
template <class A, int kRows>
struct StagedRows {
  Quad<A> quads[kStage<A>][kRows / 4 + 1];
};

// Whole 16 bytes in one access: nvcc takes the assignment of a struct apart.
template <class A>
__device__ __forceinline__ void store_shared(Quad<A>& to, const Quad<A>& from) {
  FK_UNROLL
  for (size_t i = 0; i < sizeof from / sizeof(uint4); ++i) {
    uint4 word;
    memcpy(&word, from.values + i * sizeof(uint4) / sizeof(A), sizeof word);
    reinterpret_cast<uint4*>(&to)[i] = word;
  }
}

// Stages value(row, depth) of kStage depths from `begin` on, 0 past `depths`. All threads call it.
template <int kRows, class A, class Value>
__device__ __forceinline__ void stage_rows(StagedRows<A, kRows>& rows, int begin, int depths,
                                           Value value) {
  __syncthreads();  // the stage before has been read
  for (int i = threadIdx.x; i < kStage<A> * kRows / 4; i += kThreads) {
    const int k = i % kStage<A>, quad = i / kStage<A>;
    Quad<A> q{};
    if (begin + k < depths) {
      FK_UNROLL
      for (int j = 0; j < 4; ++j) q.values[j] = value(4 * quad + j, begin + k);
    }
    store_shared(rows.quads[k][quad], q);
  }
  __syncthreads();
}

// One column of a matrix, `step` from one depth to the next.
template <class A>
struct Column {
  const A* first;
  int64_t step;
  int depths;
  bool packed;  // four depths are one aligned Quad

  // Depths k to k + kStep, 0 past the last.
  __device__ __forceinline__ void read(A (&weights)[kStep<A>], int k) const {
    FK_UNROLL
    for (int q = 0; q < kStep<A>; q += 4) {
      Quad<A> quad{};
      if (packed) {
        if (k + q < depths) quad = load_pack<A, 4>(first, k + q);
      } else {
        FK_UNROLL
        for (int j = 0; j < 4; ++j) {
          if (k + q + j < depths) quad.values[j] = first[(k + q + j) * step];
        }
      }
      FK_UNROLL
      for (int j = 0; j < 4; ++j) weights[q + j] = quad.values[j];
    }
  }
};

// sums[row] += kStep depths of the staged rows, from `k` on, times their weights.
template <int kRows, class A>
__device__ __forceinline__ void add_products(A (&sums)[kRows], const StagedRows<A, kRows>& rows,
                                             int k, const A (&weights)[kStep<A>]) {
  FK_UNROLL
  for (int j = 0; j < kStep<A>; ++j) {
    FK_UNROLL
    for (int quad = 0; quad < kRows / 4; ++quad) {
      const Quad<A> q = rows.quads[k + j][quad];
      FK_UNROLL
      for (int i = 0; i < 4; ++i) sums[4 * quad + i] += q.values[i] * weights[j];
    }
  }
}

// Few columns: lane = column, and every warp sums kStep of each stage's depths. Calls
// take(row, column, sum) once for each row and column below 32, with the warps added in order.
template <int kRows, class A, class Value, class Take>
__device__ __forceinline__ void multiply_narrow(StagedRows<A, kRows>& rows,
                                                A (&partial)[kWarps][kRows][32],
                                                const Column<A>& column, Value value, Take take) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  A sums[kRows] = {};
  for (int begin = 0; begin < column.depths; begin += kStage<A>) {
    A weights[kStep<A>];  // on their way while the rows are staged
    column.read(weights, begin + warp * kStep<A>);
    stage_rows<kRows>(rows, begin, column.depths, value);
    add_products(sums, rows, warp * kStep<A>, weights);
  }
  FK_UNROLL
  for (int row = 0; row < kRows; ++row) partial[warp][row][lane] = sums[row];
  __syncthreads();
  for (int row = warp; row < kRows; row += kWarps) {
    A sum = partial[0][row][lane];
    FK_UNROLL
    for (int w = 1; w < kWarps; ++w) sum += partial[w][row][lane];
    take(row, lane, sum);
  }
  __syncthreads();
}

// Many columns: every thread has its own, with the whole depth.
template <int kRows, class A, class Value>
__device__ __forceinline__ void multiply_wide(A (&sums)[kRows], StagedRows<A, kRows>& rows,
                                              const Column<A>& column, Value value) {
  for (int begin = 0; begin < column.depths; begin += kStage<A>) {
    const int left = column.depths - begin, staged = left < kStage<A> ? left : kStage<A>;
    A next[kStep<A>];
    column.read(next, begin);
    stage_rows<kRows>(rows, begin, column.depths, value);
#pragma unroll 1
    for (int k = 0; k < staged; k += kStep<A>) {
      A weights[kStep<A>];
      FK_UNROLL
      for (int j = 0; j < kStep<A>; ++j) weights[j] = next[j];
      column.read(next, begin + k + kStep<A>);
      add_products(sums, rows, k, weights);
    }
  }
}

}  // namespace facekernels::mlca
