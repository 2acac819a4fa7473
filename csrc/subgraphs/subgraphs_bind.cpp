#include "binding/launch.h"
#include "binding/ops.h"
#include "core/check.h"
#include "subgraphs/subgraphs.h"

namespace facekernels {
namespace {

using namespace subgraphs;

Neighborhoods neighborhoods_of(const TensorView& knn, const TensorView& pivots, int64_t k1,
                               int64_t k2, int64_t u) {
  check(knn.ndim == 2 && pivots.ndim == 1, "knn must be [N, k] and pivots [P]");
  const Neighborhoods g{knn.size(0),
                        knn.size(1),
                        knn.data_as<int64_t>(),
                        pivots.size(0),
                        pivots.data_as<int64_t>(),
                        k1,
                        k2,
                        u};
  check_dense("knn", knn, DType::kInt64, knn.device, {g.nodes, g.k});
  check_dense("pivots", pivots, DType::kInt64, knn.device, {g.pivot_count});
  check(k1 >= 1 && k2 >= 1 && u >= 1 && k1 <= g.k && k2 <= g.k && u <= g.k,
        "k_at_hop and active_connection must be between 1 and k");
  check(g.nodes <= INT32_MAX, "knn must have fewer than 2^31 rows");
  check(knn.device.type == DeviceType::kCpu || g.most_nodes() <= kMaxCudaNodes,
        "subgraphs may have at most 4096 nodes on CUDA");
  return g;
}

void subgraph_sizes(const TensorView& knn, const TensorView& pivots, int64_t k1, int64_t k2,
                    int64_t u, const TensorView& nodes, const TensorView& edges) {
  const Neighborhoods g = neighborhoods_of(knn, pivots, k1, k2, u);
  check_dense("nodes", nodes, DType::kInt64, knn.device, {g.pivot_count});
  check_dense("edges", edges, DType::kInt64, knn.device, {g.pivot_count});
  if (g.pivot_count == 0) return;
  launch_on(knn.device, SizesArgs{g, nodes.data_as<int64_t>(), edges.data_as<int64_t>()},
            &sizes_cpu, &sizes_cuda);
}

void subgraph_fill(const TensorView& knn, const TensorView& pivots, int64_t k1, int64_t k2,
                   int64_t u, const TensorView& node_offsets, const TensorView& edge_offsets,
                   const TensorView& nodes, const TensorView& indptr, const TensorView& indices,
                   const TensorView& one_hop, const TensorView& unsorted) {
  const Neighborhoods g = neighborhoods_of(knn, pivots, k1, k2, u);
  check_dense("node_offsets", node_offsets, DType::kInt64, knn.device, {g.pivot_count + 1});
  check_dense("edge_offsets", edge_offsets, DType::kInt64, knn.device, {g.pivot_count + 1});
  check_dense("nodes", nodes, DType::kInt64, knn.device, {nodes.numel()});
  check_dense("indptr", indptr, DType::kInt64, knn.device, {nodes.numel() + 1});
  check_dense("indices", indices, DType::kInt64, knn.device, {indices.numel()});
  check_dense("unsorted", unsorted, DType::kInt64, knn.device, {indices.numel()});
  check_dense("one_hop", one_hop, DType::kInt64, knn.device, {g.pivot_count, k1});
  if (g.pivot_count == 0) return;
  launch_on(
      knn.device,
      FillArgs{g, node_offsets.data_as<int64_t>(), edge_offsets.data_as<int64_t>(),
               nodes.data_as<int64_t>(), indptr.data_as<int64_t>(), indices.data_as<int64_t>(),
               one_hop.data_as<int64_t>(), unsorted.data_as<int64_t>()},
      &fill_cpu, &fill_cuda);
}

}  // namespace

void bind_subgraphs(py::module_& m) {
  m.def("subgraph_sizes", &subgraph_sizes);
  m.def("subgraph_fill", &subgraph_fill);
}

}  // namespace facekernels
