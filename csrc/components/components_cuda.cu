// As ECL-CC (Jaiganesh and Burtscher, 2018): every edge hooks the larger root below the smaller one
// with a compare-and-swap, then all paths are flattened. Races change the trees, not the roots.
#include "components/components.h"
#include "components/components_math.h"
#include "core/cuda_dtype.cuh"
#include "core/device.cuh"

namespace facekernels::components {
namespace {

constexpr int kThreads = 256;

// Other threads write parents meanwhile: each is read and written by an atomic.
__device__ __forceinline__ int parent_of(int* parent, int node) {
  return atomicAdd(parent + node, 0);
}

// Parents only ever become smaller, so halving with a minimum loses no other thread's work.
__device__ __forceinline__ int find(int* parent, int node) {
  int up = parent_of(parent, node);
  while (up != node) {
    const int above = parent_of(parent, up);
    if (above != up) atomicMin(parent + node, above);
    node = up;
    up = above;
  }
  return node;
}

__global__ void __launch_bounds__(kThreads, 1) start(const ComponentsArgs args) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i < args.nodes) args.parent[i] = static_cast<int>(i);
}

__global__ void __launch_bounds__(kThreads, 1) hook(const ComponentsArgs args) {
  const int64_t e = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (e >= args.edges || !counts(args, e)) return;
  int a = static_cast<int>(args.edge[2 * e]), b = static_cast<int>(args.edge[2 * e + 1]);
  while (true) {
    a = find(args.parent, a);
    b = find(args.parent, b);
    if (a == b) return;
    const int low = a < b ? a : b, high = a < b ? b : a;
    if (atomicCAS(args.parent + high, high, low) == high) return;
  }
}

__global__ void __launch_bounds__(kThreads, 1) flatten(const ComponentsArgs args) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i >= args.nodes) return;
  int node = static_cast<int>(i);
  while (args.parent[node] != node) node = args.parent[node];  // read only
  args.roots[i] = node;
}

}  // namespace

void components_cuda(const ComponentsArgs& args, Stream stream) {
  const dim3 nodes = blocks_for(args.nodes, kThreads);
  launch("components::start", nodes, kThreads, 0, stream, start, args);
  launch("components::hook", blocks_for(args.edges, kThreads), kThreads, 0, stream, hook, args);
  launch("components::flatten", nodes, kThreads, 0, stream, flatten, args);
}

}  // namespace facekernels::components
