// Weighted sums over neighbourhoods given in compressed rows: row r has the edges
// indptr[r] .. indptr[r + 1], and edge e leads to row indices[e] of x.
//
//   sum   out[r] = factor * sum over e of weight(e) * x[indices[e]]
//           kWeights       factor 1, weight(e) = weights[e]
//           kMean          factor 1 / degree(r), weight 1: the mean; 0 for a row without edges
//           kSourceDegree  factor 1, weight(e) = 1 / degrees[indices[e]]: the adjoint of the mean,
//                          on the transposed graph
//   dot   out[e] = <a[r], b[indices[e]]>
//
// Edges are added in their order. An index outside x: an error on the CPU, NaN on CUDA.
#pragma once

#include <cstdint>

#include "core/cpu_variant.h"
#include "core/cuda_kernel.h"
#include "core/tensor_view.h"

namespace facekernels::neighbors {

enum class Weighting : int32_t { kWeights, kMean, kSourceDegree };

struct Graph {
  int64_t rows, sources;   // of the result, of x
  const int64_t* indptr;   // [rows + 1]
  const int64_t* indices;  // [edges]
};

struct SumArgs {
  Graph graph;
  int64_t features;
  DType dtype;
  Weighting weighting;
  const void* x;           // [sources, features]
  const void* weights;     // [edges], for kWeights
  const int64_t* degrees;  // [sources], for kSourceDegree
  void* out;               // [rows, features]
};

struct DotArgs {
  Graph graph;
  int64_t features;
  DType dtype;
  const void* a;  // [rows, features]
  const void* b;  // [sources, features]
  void* out;      // [edges]
};

FK_CPU_KERNEL(sum_cpu, SumArgs)
FK_CPU_KERNEL(dot_cpu, DotArgs)
FK_CUDA_KERNEL(sum_cuda, SumArgs);
FK_CUDA_KERNEL(dot_cuda, DotArgs);

}  // namespace facekernels::neighbors
