// The k nearest rows of a database for every query, exactly.
//
//   inner product, cosine   score = <q, x> * scale(q) * scale(x)
//   l2                      score = -|q - x|^2
//
// in double, best first, of equal scores the lower index. Two steps, of which nothing as large as
// queries x rows remains:
//
//   filter   approximations <q~, x~> of a function that ranks as the score does, each within
//            slack(q) / 2 of it. A candidate is whatever is not more than slack(q) below the k-th
//            best approximation so far, so the true neighbours always are.
//   finish   exact scores of the candidates, sorted.
//
// A query whose candidates do not fit into `capacity` is marked in `overflow`, and its outputs are
// not written.
#pragma once

#include <cstdint>

#include "core/cpu_variant.h"
#include "core/cuda_kernel.h"
#include "core/tensor_view.h"

namespace facekernels::knn {

enum class Metric : int32_t { kInnerProduct, kSquaredDistance };

struct Rows {
  int64_t count;
  // One of the two, [count, filter_dim]. Halves, of a filter_dim divisible by 16, are for CUDA.
  const float* filter;
  const void* halves;
  const void* exact;    // [count, dim], float or double
  const double* scale;  // [count], or null for 1
};

struct SearchArgs {
  Rows queries, database;
  int64_t filter_dim, dim;
  DType dtype;  // of the exact rows
  Metric metric;
  bool symmetric;       // the database is the queries
  int64_t self_offset;  // query i is row i + self_offset, which it does not find; negative: none
  int64_t k;
  const float* slack;  // [queries]
  // Workspace
  int64_t capacity;
  float* candidate_score;    // [queries, capacity]
  int32_t* candidate_index;  // [queries, capacity]
  int32_t* candidate_count;  // [queries]
  float* threshold;          // [queries]: candidates are above it
  // Outputs
  int64_t* index;     // [queries, k]
  float* score;       // [queries, k]
  uint8_t* overflow;  // [queries]
};

// Candidates that CUDA can sort in shared memory.
constexpr int64_t kMaxCudaCapacity = 2048;

FK_CPU_KERNEL(search_cpu, SearchArgs)
FK_CUDA_KERNEL(search_cuda, SearchArgs);

}  // namespace facekernels::knn
