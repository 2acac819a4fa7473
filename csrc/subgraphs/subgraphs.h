// Context subgraphs of a nearest-neighbour graph, one around each pivot (Wang et al., 2019).
//
//   one hop   H1 = the first k1 neighbours of the pivot
//   nodes     {pivot} + H1 + the first k2 neighbours of every node of H1, each once, ascending
//   edges     a - b, in both directions, where b is among the first u neighbours of a; no loops
//
// All subgraphs of a batch are one graph in compressed rows: the rows of pivot p are
// node_offsets[p] .. node_offsets[p + 1], and an edge leads to a row of the batch.
#pragma once

#include <cstdint>

#include "core/cpu_variant.h"
#include "core/cuda_kernel.h"
#include "core/host_device.h"

namespace facekernels::subgraphs {

struct Neighborhoods {
  int64_t nodes, k;    // of the graph
  const int64_t* knn;  // [nodes, k], best first, without the node itself
  int64_t pivot_count;
  const int64_t* pivots;  // [pivot_count]
  int64_t k1, k2, u;

  FK_HOST_DEVICE int64_t most_nodes() const { return k1 * (k2 + 1) + 1; }
};

struct SizesArgs {
  Neighborhoods graph;
  int64_t* nodes;  // [pivots]
  int64_t* edges;  // [pivots]
};

struct FillArgs {
  Neighborhoods graph;
  const int64_t* node_offsets;  // [pivots + 1]
  const int64_t* edge_offsets;  // [pivots + 1]
  int64_t* nodes;               // [rows]
  int64_t* indptr;              // [rows + 1]
  int64_t* indices;             // [edges], ascending in every row
  int64_t* one_hop;             // [pivots, k1], rows of the batch, ascending
  int64_t* unsorted;            // [edges], workspace
};

// Nodes of a subgraph that CUDA can sort in shared memory.
constexpr int64_t kMaxCudaNodes = 4096;

FK_CPU_KERNEL(sizes_cpu, SizesArgs)
FK_CPU_KERNEL(fill_cpu, FillArgs)
FK_CUDA_KERNEL(sizes_cuda, SizesArgs);
FK_CUDA_KERNEL(fill_cuda, FillArgs);

}  // namespace facekernels::subgraphs
