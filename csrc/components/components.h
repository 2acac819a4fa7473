// Connected components of an undirected graph given as a list of edges.
//
//   roots[i]   the smallest node of the component of i, over the edges with score >= threshold
//
// The result does not depend on the order of the edges nor, on CUDA, on that of the threads.
#pragma once

#include <cstdint>

#include "core/cpu_variant.h"
#include "core/cuda_kernel.h"

namespace facekernels::components {

struct ComponentsArgs {
  int64_t nodes, edges;
  const int64_t* edge;  // [edges, 2]
  const float* score;   // [edges], or null: every edge counts
  float threshold;
  int32_t* parent;  // [nodes], workspace
  int64_t* roots;   // [nodes]
};

FK_CPU_KERNEL(components_cpu, ComponentsArgs)
FK_CUDA_KERNEL(components_cuda, ComponentsArgs);

}  // namespace facekernels::components
