#include <pybind11/stl.h>

#include <optional>

#include "binding/launch.h"
#include "binding/ops.h"
#include "core/check.h"
#include "linkage/linkage.h"

namespace facekernels {
namespace {

using namespace linkage;
using OptionalView = std::optional<TensorView>;

// The indices come from `pivot_subgraphs`: they are checked here on the CPU only.
void check_indices(const char* name, const TensorView& t, int64_t limit) {
  if (t.device.type != DeviceType::kCpu) return;
  const int64_t* const index = t.data_as<int64_t>();
  for (int64_t i = 0; i < t.numel(); ++i) {
    check_lazy(index[i] >= 0 && index[i] < limit, [&] {
      return std::string(name) + " must be between 0 and " + std::to_string(limit - 1) + ", got " +
             std::to_string(index[i]);
    });
  }
}

void linkage_combine(const TensorView& own, const TensorView& other, const OptionalView& nodes,
                     const TensorView& indptr, const TensorView& indices,
                     const OptionalView& groups, const TensorView& shift, const TensorView& out) {
  const Device device = own.device;
  check(own.ndim == 2 && shift.ndim == 2 && out.ndim == 2, "own, shift and out must be matrices");
  const int64_t sources = own.size(0), features = own.size(1), rows = out.size(0);
  for (const TensorView* t : {&own, &other}) {
    check_dtype("own and other", *t, own.dtype);
    check_device("own and other", *t, device);
    check_shape("own and other", *t, {sources, features});
    check(features <= 1 || t->stride(1) == 1, "own and other must have contiguous rows");
  }
  check_dense("shift", shift, own.dtype, device, {shift.size(0), features});
  check_dense("out", out, own.dtype, device, {rows, features});
  check_dense("indptr", indptr, DType::kInt64, device, {rows + 1});
  check_dense("indices", indices, DType::kInt64, device, {indices.numel()});
  check_indices("indices", indices, rows);
  CombineArgs args{rows,
                   sources,
                   features,
                   own.dtype,
                   own.data,
                   other.data,
                   own.stride(0),
                   other.stride(0),
                   nullptr,
                   indptr.data_as<int64_t>(),
                   indices.data_as<int64_t>(),
                   nullptr,
                   shift.data,
                   shift.size(0),
                   out.data};
  check(nodes || rows <= sources, "nodes are needed where there are more rows than sources");
  check(groups || shift.size(0) == 1, "groups are needed where shift has several rows");
  if (nodes) {
    check_dense("nodes", *nodes, DType::kInt64, device, {rows});
    check_indices("nodes", *nodes, sources);
    args.nodes = nodes->data_as<int64_t>();
  }
  if (groups) {
    check_dense("groups", *groups, DType::kInt64, device, {rows});
    check_indices("groups", *groups, shift.size(0));
    args.groups = groups->data_as<int64_t>();
  }
  if (out.numel() == 0) return;
  launch_on(device, args, &combine_cpu, &combine_cuda);
}

}  // namespace

void bind_linkage(py::module_& m) {
  m.def("linkage_combine", &linkage_combine);
}

}  // namespace facekernels
