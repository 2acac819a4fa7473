#include <pybind11/stl.h>

#include <optional>

#include "binding/launch.h"
#include "binding/ops.h"
#include "components/components.h"
#include "core/check.h"

namespace facekernels {
namespace {

using namespace components;

// The GPU's edges are checked by the caller.
void check_nodes(const int64_t* edge, int64_t count, int64_t nodes) {
  for (int64_t i = 0; i < count; ++i) {
    check_lazy(edge[i] >= 0 && edge[i] < nodes, [&] {
      return "edges must hold nodes between 0 and " + std::to_string(nodes - 1) + ", got " +
             std::to_string(edge[i]);
    });
  }
}

void connected_components(const TensorView& edges, const std::optional<TensorView>& scores,
                          double threshold, const TensorView& parent, const TensorView& roots) {
  check(roots.ndim == 1 && edges.ndim == 2, "edges must be [E, 2] and roots [N]");
  const int64_t nodes = roots.size(0), count = edges.size(0);
  check(nodes <= INT32_MAX, "num_nodes must be below 2^31");
  check_dense("edges", edges, DType::kInt64, edges.device, {count, 2});
  check_dense("parent", parent, DType::kInt32, edges.device, {nodes});
  check_dense("roots", roots, DType::kInt64, edges.device, {nodes});
  if (scores) check_dense("scores", *scores, DType::kFloat32, edges.device, {count});
  const int64_t* const edge = edges.data_as<int64_t>();
  if (edges.device.type == DeviceType::kCpu) check_nodes(edge, 2 * count, nodes);
  if (nodes == 0) return;
  launch_on(edges.device,
            ComponentsArgs{nodes, count, edge, scores ? scores->data_as<float>() : nullptr,
                           static_cast<float>(threshold), parent.data_as<int32_t>(),
                           roots.data_as<int64_t>()},
            &components_cpu, &components_cuda);
}

}  // namespace

void bind_components(py::module_& m) {
  m.def("connected_components", &connected_components);
}

}  // namespace facekernels
