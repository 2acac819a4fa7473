// A block per pivot. The nodes are sorted in shared memory, where a binary search finds their rows.
// Slots of edges are drawn with integer atomics and the rows sorted afterwards, so that the result
// does not depend on the order of the threads.
#include "core/cuda_dtype.cuh"
#include "core/device.cuh"
#include "subgraphs/subgraphs.h"
#include "subgraphs/subgraphs_math.h"

namespace facekernels::subgraphs {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kNone = 0x7fffffff;

// Ascending, in place; size is a power of two.
__device__ __forceinline__ void sort(int* values, int size) {
  for (int run = 2; run <= size; run *= 2) {
    for (int stride = run / 2; stride > 0; stride /= 2) {
      __syncthreads();
      for (int i = static_cast<int>(threadIdx.x); i < size / 2; i += kThreads) {
        const int low = 2 * stride * (i / stride) + i % stride, high = low + stride;
        const int a = values[low], b = values[high];
        if (((low & run) == 0) == (a > b)) {
          values[low] = b;
          values[high] = a;
        }
      }
    }
  }
  __syncthreads();
}

// Exclusive prefix sum of one value per thread; `total` is that of the block.
__device__ __forceinline__ int prefix(int value, int* warp_sums, int* total) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  int sum = value;
  FK_UNROLL
  for (int offset = 1; offset < 32; offset *= 2) {
    const int other = __shfl_up_sync(0xffffffffu, sum, offset);
    if (lane >= offset) sum += other;
  }
  if (lane == 31) warp_sums[warp] = sum;
  __syncthreads();
  int before = 0, all = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) before += warp_sums[w];
    all += warp_sums[w];
  }
  __syncthreads();
  *total = all;
  return before + sum - value;
}

// Fills rows with the sorted nodes of the pivot's subgraph and returns how many they are.
__device__ __forceinline__ int collect(const Neighborhoods& g, int64_t pivot, int* rows,
                                       int* warp_sums) {
  const int thread = static_cast<int>(threadIdx.x);
  const int most = static_cast<int>(g.most_nodes());
  int size = 2;
  while (size < most) size *= 2;
  const int per_hop = static_cast<int>(g.k2) + 1;
  for (int i = thread; i < size; i += kThreads) {
    int64_t node = kNone;
    if (i == 0) {
      node = pivot;
    } else if (i < most) {
      const int hop = (i - 1) / per_hop, j = (i - 1) % per_hop;
      node = g.knn[pivot * g.k + hop];
      if (j > 0) node = g.knn[node * g.k + j - 1];
    }
    rows[i] = static_cast<int>(node);
  }
  sort(rows, size);
  int count = 0, last = -1;  // the node before this thread's chunk
  for (int first = 0; first < size; first += kThreads) {
    const int i = first + thread;
    const int node = i < size ? rows[i] : kNone;
    const int before = thread == 0 ? last : i < size ? rows[i - 1] : kNone;
    const int end = first + kThreads < size ? first + kThreads : size;
    last = rows[end - 1];
    const bool fresh = node != kNone && node != before;
    int total = 0;
    const int at = count + prefix(fresh, warp_sums, &total);  // all have read when it returns
    if (fresh) rows[at] = node;
    count += total;
    __syncthreads();
  }
  return count;
}

// The row of a node, or -1.
__device__ __forceinline__ int row_of(const int* rows, int count, int64_t node) {
  int low = 0, high = count;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (rows[middle] < node) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < count && rows[low] == node ? low : -1;
}

// f(a, b) for every directed edge between rows, each once, by all threads of the block.
template <class F>
__device__ __forceinline__ void for_each_edge(const Neighborhoods& g, const int* rows, int count,
                                              F f) {
  const int u = static_cast<int>(g.u);
  for (int i = static_cast<int>(threadIdx.x); i < count * u; i += kThreads) {
    const int a = i / u;
    const int64_t neighbor = g.knn[rows[a] * g.k + i % u];
    const int b = row_of(rows, count, neighbor);
    if (b < 0 || b == a) continue;
    f(a, b);
    if (!links(g, neighbor, rows[a])) f(b, a);
  }
}

__global__ void __launch_bounds__(kThreads, 1) sizes(const SizesArgs args) {
  FK_SHARED(int, rows, [kMaxCudaNodes]);
  FK_SHARED(int, warp_sums, [kWarps]);
  const int64_t p = blockIdx.x;
  const int count = collect(args.graph, args.graph.pivots[p], rows, warp_sums);
  int edges = 0, total = 0;
  for_each_edge(args.graph, rows, count, [&](int, int) { ++edges; });
  prefix(edges, warp_sums, &total);
  if (threadIdx.x == 0) {
    args.nodes[p] = count;
    args.edges[p] = total;
  }
}

__global__ void __launch_bounds__(kThreads, 1) fill(const FillArgs args) {
  FK_SHARED(int, rows, [kMaxCudaNodes]);
  FK_SHARED(int, next, [kMaxCudaNodes]);  // degrees, then where a row's next edge goes
  FK_SHARED(int, warp_sums, [kWarps]);
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const Neighborhoods& g = args.graph;
  const int64_t p = blockIdx.x, pivot = g.pivots[p];
  const int64_t first = args.node_offsets[p], first_edge = args.edge_offsets[p];
  const int count = collect(g, pivot, rows, warp_sums);
  for (int i = thread; i < count; i += kThreads) {
    args.nodes[first + i] = rows[i];
    next[i] = 0;
  }
  __syncthreads();
  for_each_edge(g, rows, count, [&](int a, int) { atomicAdd(&next[a], 1); });
  __syncthreads();
  if (p == 0 && thread == 0) args.indptr[0] = 0;
  int before = 0;
  for (int begin = 0; begin < count; begin += kThreads) {
    const int i = begin + thread, degree = i < count ? next[i] : 0;
    int total = 0;
    const int at = before + prefix(degree, warp_sums, &total);
    if (i < count) {
      next[i] = at;
      args.indptr[first + i + 1] = first_edge + at + degree;
    }
    before += total;
  }
  __syncthreads();
  for_each_edge(g, rows, count, [&](int a, int b) {
    args.unsorted[first_edge + atomicAdd(&next[a], 1)] = first + b;
  });
  __syncthreads();
  // By now next[i] is where row i ends. An entry's rank is its place; equal ones, of rows that hold
  // a node twice, keep their order.
  for (int i = warp; i < count; i += kWarps) {
    const int64_t begin = first_edge + (i > 0 ? next[i - 1] : 0), end = first_edge + next[i];
    for (int64_t e = begin + lane; e < end; e += 32) {
      const int64_t value = args.unsorted[e];
      int64_t rank = 0;
      for (int64_t o = begin; o < end; ++o) {
        rank += args.unsorted[o] < value || (args.unsorted[o] == value && o < e);
      }
      args.indices[begin + rank] = value;
    }
  }
  const int k1 = static_cast<int>(g.k1);
  for (int i = thread; i < k1; i += kThreads) {
    const int64_t node = g.knn[pivot * g.k + i];
    int rank = 0;
    for (int o = 0; o < k1; ++o) {
      const int64_t other = g.knn[pivot * g.k + o];
      rank += other < node || (other == node && o < i);
    }
    args.one_hop[p * k1 + rank] = first + row_of(rows, count, node);
  }
}

}  // namespace

void sizes_cuda(const SizesArgs& args, Stream stream) {
  launch("subgraphs::sizes", dim3(static_cast<unsigned>(args.graph.pivot_count)), kThreads, 0,
         stream, sizes, args);
}

void fill_cuda(const FillArgs& args, Stream stream) {
  launch("subgraphs::fill", dim3(static_cast<unsigned>(args.graph.pivot_count)), kThreads, 0,
         stream, fill, args);
}

}  // namespace facekernels::subgraphs
