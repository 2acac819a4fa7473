// Tiles of the product of queries and database that stay in the registers of a block. A tile class
// says how scores are spread over the threads and computes them:
//
//   kThreads             of the block
//   kRows, kColumns      queries and rows of the database in a tile
//   kOwnRows, ..Columns  of which a thread holds the scores; row(i) and column(j) are their places
//   kLanesPerRow         neighbouring lanes of a warp that hold the same rows
//   multiply()           scores of the next tile of columns
#pragma once

#include "core/device.cuh"
#include "core/matrix.cuh"
#include "knn/knn.h"

namespace facekernels::knn {

// The columns that a block visits, one tile after the other, for the queries from `row` on.
struct Span {
  int64_t row, begin, end;
};

// Sums of products of floats. Thread (ty, tx) owns rows ty + 16 i and columns tx + 16 j:
// neighbours in a warp read neighbouring words of shared memory.
class FloatTile {
 public:
  static constexpr int kThreads = 256;
  static constexpr int kRows = 128, kColumns = 128;
  static constexpr int kOwnRows = 8, kOwnColumns = 8;
  static constexpr int kLanesPerRow = kColumns / kOwnColumns;

  __device__ FloatTile(const SearchArgs& args, const Span& span)
      : args_(args), span_(span), next_(span.begin) {
    FK_SHARED(Depth, rows, [kDepth]);
    FK_SHARED(Depth, columns, [kDepth]);
    rows_ = rows;
    columns_ = columns;
  }

  static __device__ __forceinline__ int row(int i) {
    return static_cast<int>(threadIdx.x) / kLanesPerRow + kRows / kOwnRows * i;
  }
  static __device__ __forceinline__ int column(int j) {
    return static_cast<int>(threadIdx.x) % kLanesPerRow + kLanesPerRow * j;
  }
  __device__ __forceinline__ float score(int i, int j) const { return sums_[i][j]; }

  __device__ __forceinline__ void multiply() {
    FK_UNROLL
    for (int i = 0; i < kOwnRows; ++i) {
      FK_UNROLL
      for (int j = 0; j < kOwnColumns; ++j) sums_[i][j] = 0.0f;
    }
    for (int64_t first = 0; first < args_.filter_dim; first += kDepth) {
      load(rows_, args_.queries.filter, span_.row, args_.queries.count, first);
      load(columns_, args_.database.filter, next_, span_.end, first);
      __syncthreads();
      FK_UNROLL
      for (int d = 0; d < kDepth; ++d) {
        float a[kOwnRows], b[kOwnColumns];
        FK_UNROLL
        for (int i = 0; i < kOwnRows; ++i) a[i] = rows_[d][row(i)];
        FK_UNROLL
        for (int j = 0; j < kOwnColumns; ++j) b[j] = columns_[d][column(j)];
        FK_UNROLL
        for (int i = 0; i < kOwnRows; ++i) {
          FK_UNROLL
          for (int j = 0; j < kOwnColumns; ++j) sums_[i][j] += a[i] * b[j];
        }
      }
      __syncthreads();
    }
    next_ += kColumns;
  }

 private:
  static constexpr int kDepth = 8;  // elements of one step
  static_assert(kRows == kColumns);
  using Depth = float[kRows + 4];

  __device__ __forceinline__ void load(Depth* to, const float* x, int64_t first, int64_t end,
                                       int64_t element) const {
    for (int i = static_cast<int>(threadIdx.x); i < kRows * kDepth; i += kThreads) {
      const int r = i / kDepth, d = i % kDepth;
      const bool inside = first + r < end && element + d < args_.filter_dim;
      to[d][r] = inside ? x[(first + r) * args_.filter_dim + element + d] : 0.0f;
    }
  }

  const SearchArgs& args_;
  const Span span_;
  int64_t next_;
  Depth *rows_, *columns_;
  float sums_[kOwnRows][kOwnColumns];
};

// Sums in float of products of halves, on tensor cores. A warp owns 64 x 64 scores. Steps of 32
// elements go through two stages of shared memory: the next one, which may belong to the next tile,
// is copied while this one is multiplied.
class HalfTile {
 public:
  static constexpr int kThreads = 256;
  static constexpr int kRows = 128, kColumns = 256;
  static constexpr int kOwnRows = 8, kOwnColumns = 16;
  static constexpr int kLanesPerRow = 4;

  __device__ HalfTile(const SearchArgs& args, const Span& span)
      : args_(args), span_(span), copied_column_(span.begin) {
    FK_SHARED(Stage, stages, [2]);
    stages_ = stages;
    copy_next();
  }

  static __device__ __forceinline__ int row(int i) {
    return warp_row() + i / 2 * 16 + i % 2 * 8 + lane() / 4;
  }
  static __device__ __forceinline__ int column(int j) {
    return warp_column() + j / 2 * 8 + lane() % 4 * 2 + j % 2;
  }
  __device__ __forceinline__ float score(int i, int j) const {
    return sums_[i / 2][j / 2][i % 2 * 2 + j % 2];
  }

  __device__ __forceinline__ void multiply() {
    FK_UNROLL
    for (int i = 0; i < kOwnRows / 2; ++i) {
      FK_UNROLL
      for (int j = 0; j < kOwnColumns / 2; ++j) {
        FK_UNROLL
        for (int e = 0; e < 4; ++e) sums_[i][j][e] = 0.0f;
      }
    }
    for (int element = 0; element < dim(); element += kDepth) {
      const Stage& stage = stages_[1 - fill_];
      __pipeline_wait_prior(0);
      __syncthreads();  // of all threads: this stage is filled, and the other one is read
      copy_next();
      multiply_step(stage, 0);
      if (element + kStep < dim()) multiply_step(stage, 1);
    }
  }

 private:
  static constexpr int kStep = 16;            // elements of one instruction
  static constexpr int kDepth = 32;           // of a stage
  static constexpr int kPieces = kDepth / 8;  // of 16 bytes
  using Stage = uint4[(kRows + kColumns) * kPieces];
  static_assert(2 * sizeof(Stage) <= 48 * 1024);

  static __device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x) % 32; }
  static __device__ __forceinline__ int warp_row() {
    return static_cast<int>(threadIdx.x) / 128 * 64;
  }
  static __device__ __forceinline__ int warp_column() {
    return static_cast<int>(threadIdx.x) / 32 % 4 * 64;
  }
  __device__ __forceinline__ int dim() const { return static_cast<int>(args_.filter_dim); }

  // Where a piece of a row is in a stage. Two rows fill the 32 banks; the pieces are permuted so
  // that the 8 rows which ldmatrix reads at once lie in different banks.
  static __device__ __forceinline__ int place(int row, int piece) {
    return row * kPieces + (piece ^ (row / 2 % kPieces));
  }

  // Starts the copy of the next step of the span, if any.
  __device__ __forceinline__ void copy_next() {
    if (copied_column_ < span_.end) {
      Stage& stage = stages_[fill_];
      copy_rows<kRows>(stage, 0, args_.queries.halves, span_.row, args_.queries.count);
      copy_rows<kColumns>(stage, kRows, args_.database.halves, copied_column_, span_.end);
      copied_element_ += kDepth;
      if (copied_element_ >= dim()) {
        copied_element_ = 0;
        copied_column_ += kColumns;
      }
    }
    __pipeline_commit();
    fill_ = 1 - fill_;
  }

  template <int kCount>
  __device__ __forceinline__ void copy_rows(Stage& stage, int place_row, const void* halves,
                                            int64_t first, int64_t end) const {
    constexpr int kRowsAtOnce = kThreads / kPieces;
    const int thread = static_cast<int>(threadIdx.x);
    const int row = thread / kPieces, piece = thread % kPieces;
    const int element = copied_element_ + 8 * piece;
    const int64_t at = (first + row) * args_.filter_dim + element;
    FK_UNROLL
    for (int i = 0; i < kCount / kRowsAtOnce; ++i) {
      const int down = i * kRowsAtOnce;
      const bool inside = element < dim() && first + row + down < end;
      const __half* const from =
          static_cast<const __half*>(halves) + (inside ? at + down * args_.filter_dim : 0);
      __pipeline_memcpy_async(&stage[place(place_row + row + down, piece)], from, 16,
                              inside ? 0 : 16);
    }
  }

  __device__ __forceinline__ void multiply_step(const Stage& stage, int step) {
    uint32_t a[kOwnRows / 2][4];
    FK_UNROLL
    for (int i = 0; i < kOwnRows / 2; ++i) {
      load_matrices(a[i], &stage[place(warp_row() + 16 * i + lane() % 16, 2 * step + lane() / 16)]);
    }
    FK_UNROLL
    for (int j = 0; j < kOwnColumns / 2; j += 2) {
      uint32_t b[4];  // of two tiles of 8 columns
      load_matrices(b, &stage[place(kRows + warp_column() + 8 * j + lane() % 8 + lane() / 16 * 8,
                                    2 * step + lane() / 8 % 2)]);
      FK_UNROLL
      for (int side = 0; side < 2; ++side) {
        const uint32_t columns[2] = {b[2 * side], b[2 * side + 1]};
        FK_UNROLL
        for (int i = 0; i < kOwnRows / 2; ++i) {
          multiply_halves(sums_[i][j + side], a[i], columns);
        }
      }
    }
  }

  const SearchArgs& args_;
  const Span span_;
  int64_t copied_column_;
  int copied_element_ = 0, fill_ = 0;
  Stage* stages_;
  float sums_[kOwnRows / 2][kOwnColumns / 2][4];
};

}  // namespace facekernels::knn
