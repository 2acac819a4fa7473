// The part of a graph convolution that follows the matrix product. With [own | other] = x [W1 |
// W2],
//
//   relu([x ; A x] W + b)[r] = relu(own[r] + mean over e of other[indices[e]] + b)
//
// so that only rows of the output's width are gathered. In the first layer of the linkage network x
// is a row of the data set minus the pivot's: own and other are products of the whole data set,
// made once, and the pivot and the bias are one row of `shift` per subgraph.
#pragma once

#include <cstdint>

#include "core/cpu_variant.h"
#include "core/cuda_kernel.h"
#include "core/tensor_view.h"

namespace facekernels::linkage {

struct CombineArgs {
  int64_t rows, sources, features;
  DType dtype;
  const void* own;    // [sources, features], rows own_stride apart
  const void* other;  // [sources, features], rows other_stride apart
  int64_t own_stride, other_stride;
  const int64_t* nodes;    // [rows]: the source of a row; null: the row itself
  const int64_t* indptr;   // [rows + 1]
  const int64_t* indices;  // [edges], rows
  const int64_t* groups;   // [rows]: the row of shift, or null for the only one
  const void* shift;       // [groups, features]
  int64_t shifts;
  void* out;  // [rows, features]
};

FK_CPU_KERNEL(combine_cpu, CombineArgs)
FK_CUDA_KERNEL(combine_cuda, CombineArgs);

}  // namespace facekernels::linkage
