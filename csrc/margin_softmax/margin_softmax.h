// Cosines of embeddings and class weights that only a softmax cross entropy leaves:
//
//   cos[b,v] = clamp(<e_b, w_v> / (|e_b| |w_v|), -1, 1)
//   lse[b]   = log sum_{v != label[b]} exp(s cos[b,v])       target[b] = cos[b,label[b]]
//
// The margin concerns the target alone, so everything after these two numbers per row is left to
// the caller. The backward pass computes the cosines again, block by block, unless the caller, on
// the CPU, lends the memory to keep the products <e_b, w_v> / |e_b|. Without its clamp, which lets
// gradients pass within [-1, 1] only,
//
//   d_cos[b,v] = d_lse[b] s exp(s cos[b,v] - lse[b]), or d_target[b] where v = label[b]
//   d_w_v      = (sum_b d_cos[b,v] e_b / |e_b| - w_v / |w_v| sum_b d_cos[b,v] cos[b,v]) / |w_v|
//   d_e_b      = (g_b - e_b / |e_b| <g_b, e_b / |e_b|>) / |e_b|, g_b = sum_v d_cos[b,v] w_v / |w_v|
//
// A norm below kSmallestNorm counts as that number, without a gradient of its own.
#pragma once

#include <cstdint>

#include "core/cpu_variant.h"
#include "core/cuda_kernel.h"
#include "core/host_device.h"
#include "core/tensor_view.h"

namespace facekernels::margin_softmax {

// Both passes: `accumulate` is float, or double for double inputs.
struct Rows {
  int64_t batch, dim;
  int64_t classes;         // that take part
  int64_t weights;         // rows of `weight`
  DType dtype;             // of embeddings and weight
  double scale;            // s, above 0
  const void* embeddings;  // [batch, dim]
  const void* weight;      // [weights, dim]
  const int64_t* index;    // [classes] rows of `weight`, or null for all of them
  const int64_t* labels;   // [batch] among the classes that take part; -1 for none

  FK_HOST_DEVICE int64_t row_of(int64_t v) const { return index ? index[v] : v; }
};

// Of a row of kept products: whole vectors of every instruction set.
constexpr int64_t kKeptMultiple = 16;
constexpr int64_t kept_row(int64_t batch) {
  return (batch + kKeptMultiple - 1) / kKeptMultiple * kKeptMultiple;
}

// CUDA only: rows and columns of a tile. A chunk of classes is whole tiles.
constexpr int kTile = 64;

struct ForwardArgs {
  Rows rows;
  void* lse;     // [batch], accumulate
  void* target;  // [batch], accumulate; 0 without a label, NaN for one that is out of range
  void* kept;    // CPU only: [classes, batch rounded up to kKeptMultiple], accumulate, or null
  // CUDA only:
  void* inverse_norms;  // [batch + classes], accumulate
  void* partial;        // [splits, 2, batch], accumulate
  int64_t splits;
};

struct BackwardArgs {
  Rows rows;
  const void* lse;       // [batch], accumulate, as all gradients of rows
  const void* d_lse;     // [batch]
  const void* d_target;  // [batch]
  const void* kept;      // CPU only: of the forward pass; null: the products are made again
  void* d_embeddings;    // [batch, dim], dtype of the embeddings, or null
  void* d_weight;        // [classes, dim], likewise
  // CUDA only:
  const void* inverse_norms;  // of the forward pass
  void* d_cos;                // [chunk, batch], accumulate: d_cos / |w_v| of so many classes
  void* d_cos_cos;            // [chunk], accumulate: sum_b d_cos cos
  void* partial;              // [splits, batch, dim], accumulate
  int64_t chunk, splits;
};

FK_CPU_KERNEL(forward_cpu, ForwardArgs)
FK_CPU_KERNEL(backward_cpu, BackwardArgs)
FK_CUDA_KERNEL(forward_cuda, ForwardArgs);
FK_CUDA_KERNEL(backward_cuda, BackwardArgs);

}  // namespace facekernels::margin_softmax
