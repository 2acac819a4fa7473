#include <pybind11/stl.h>

#include <optional>

#include "binding/launch.h"
#include "binding/ops.h"
#include "core/check.h"
#include "neighbors/neighbors.h"

namespace facekernels {
namespace {

using namespace neighbors;
using OptionalView = std::optional<TensorView>;

// The GPU's graph stays where it is: there an index outside gives NaN.
void check_graph(const Graph& graph, int64_t edges) {
  check(graph.indptr[0] == 0 && graph.indptr[graph.rows] == edges,
        "indptr must begin with 0 and end with the number of indices");
  for (int64_t r = 0; r < graph.rows; ++r) {
    check_lazy(graph.indptr[r] <= graph.indptr[r + 1],
               [&] { return "indptr must not decrease, but does after row " + std::to_string(r); });
  }
  for (int64_t e = 0; e < edges; ++e) {
    check_lazy(graph.indices[e] >= 0 && graph.indices[e] < graph.sources, [&] {
      return "indices must be between 0 and " + std::to_string(graph.sources - 1) + ", got " +
             std::to_string(graph.indices[e]);
    });
  }
}

Graph graph_of(const TensorView& x, int64_t sources, const TensorView& indptr,
               const TensorView& indices) {
  check(indptr.ndim == 1 && indptr.size(0) >= 1 && indices.ndim == 1,
        "indptr must be [R + 1] and indices [E]");
  const int64_t rows = indptr.size(0) - 1, edges = indices.size(0);
  check_dense("indptr", indptr, DType::kInt64, x.device, {rows + 1});
  check_dense("indices", indices, DType::kInt64, x.device, {edges});
  const Graph graph{rows, sources, indptr.data_as<int64_t>(), indices.data_as<int64_t>()};
  if (x.device.type == DeviceType::kCpu) check_graph(graph, edges);
  return graph;
}

void neighbor_sum(const TensorView& x, const TensorView& indptr, const TensorView& indices,
                  int64_t weighting, const OptionalView& weights, const OptionalView& degrees,
                  const TensorView& out) {
  check(x.ndim == 2, "x must be [N, F]");
  const int64_t sources = x.size(0), features = x.size(1);
  check_dense("x", x, x.dtype, x.device, {sources, features});
  check(weighting >= 0 && weighting <= 2, "weighting must be 0, 1 or 2");
  const Graph graph = graph_of(x, sources, indptr, indices);
  check_dense("out", out, x.dtype, x.device, {graph.rows, features});
  SumArgs args{graph,  features, x.dtype, static_cast<Weighting>(weighting),
               x.data, nullptr,  nullptr, out.data};
  check(weights.has_value() == (args.weighting == Weighting::kWeights),
        "weights go with weighting 0");
  check(degrees.has_value() == (args.weighting == Weighting::kSourceDegree),
        "degrees go with weighting 2");
  if (weights) {
    check_dense("weights", *weights, x.dtype, x.device, {indices.size(0)});
    args.weights = weights->data;
  }
  if (degrees) {
    check_dense("degrees", *degrees, DType::kInt64, x.device, {sources});
    args.degrees = degrees->data_as<int64_t>();
  }
  if (out.numel() == 0) return;
  launch_on(x.device, args, &sum_cpu, &sum_cuda);
}

void neighbor_dot(const TensorView& a, const TensorView& b, const TensorView& indptr,
                  const TensorView& indices, const TensorView& out) {
  check(a.ndim == 2 && b.ndim == 2, "a must be [R, F] and b [N, F]");
  const int64_t features = a.size(1);
  const Graph graph = graph_of(a, b.size(0), indptr, indices);
  check_dense("a", a, a.dtype, a.device, {graph.rows, features});
  check_dense("b", b, a.dtype, a.device, {graph.sources, features});
  check_dense("out", out, a.dtype, a.device, {indices.size(0)});
  if (out.numel() == 0) return;
  launch_on(a.device, DotArgs{graph, features, a.dtype, a.data, b.data, out.data}, &dot_cpu,
            &dot_cuda);
}

}  // namespace

void bind_neighbors(py::module_& m) {
  m.def("neighbor_sum", &neighbor_sum);
  m.def("neighbor_dot", &neighbor_dot);
}

}  // namespace facekernels
