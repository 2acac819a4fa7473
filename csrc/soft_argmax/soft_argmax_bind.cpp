#include <pybind11/stl.h>

#include <optional>

#include "binding/launch.h"
#include "binding/map_stack.h"
#include "binding/ops.h"
#include "core/check.h"
#include "core/dispatch.h"
#include "soft_argmax/soft_argmax.h"

namespace facekernels {
namespace {

using namespace soft_argmax;
using OptionalView = std::optional<TensorView>;

void soft_argmax_forward(const TensorView& heatmaps, double beta, bool normalized,
                         const TensorView& xy, const OptionalView& stats) {
  const MapStack maps = map_stack_of("heatmaps", heatmaps);
  const int64_t b = maps.batch, k = maps.channels;
  const DType acc = accumulate_dtype(heatmaps.dtype);
  check_dense("xy", xy, acc, heatmaps.device, {b, k, 2});
  if (stats) check_dense("stats", *stats, acc, heatmaps.device, {b, k, 4});
  if (maps.count() == 0) return;
  launch_on(heatmaps.device,
            SoftArgs{maps, heatmaps.dtype, beta, normalized, heatmaps.data, xy.data,
                     stats ? stats->data : nullptr},
            &soft_cpu, &soft_cuda);
}

void soft_argmax_backward(const TensorView& heatmaps, double beta, bool normalized,
                          const TensorView& stats, const TensorView& d_xy,
                          const TensorView& d_heatmaps) {
  const MapStack maps = map_stack_of("heatmaps", heatmaps);
  const int64_t b = maps.batch, k = maps.channels;
  const DType acc = accumulate_dtype(heatmaps.dtype);
  check_dense("stats", stats, acc, heatmaps.device, {b, k, 4});
  check_dense("d_xy", d_xy, acc, heatmaps.device, {b, k, 2});
  check_dense("d_heatmaps", d_heatmaps, heatmaps.dtype, heatmaps.device,
              {b, k, maps.height, maps.width});
  if (maps.count() == 0) return;
  launch_on(heatmaps.device,
            SoftBackwardArgs{maps, heatmaps.dtype, beta, normalized, heatmaps.data, stats.data,
                             d_xy.data, d_heatmaps.data},
            &soft_backward_cpu, &soft_backward_cuda);
}

void center_of_mass_forward(const TensorView& heatmaps, int64_t radius, const TensorView& xy,
                            const OptionalView& sum, const OptionalView& argmax) {
  const MapStack maps = map_stack_of("heatmaps", heatmaps);
  const int64_t b = maps.batch, k = maps.channels;
  const DType acc = accumulate_dtype(heatmaps.dtype);
  check(radius >= 0, "radius must be at least 0");
  check_dense("xy", xy, acc, heatmaps.device, {b, k, 2});
  if (sum) check_dense("sum", *sum, acc, heatmaps.device, {b, k});
  if (argmax) check_dense("argmax", *argmax, DType::kInt32, heatmaps.device, {b, k});
  if (maps.count() == 0) return;
  launch_on(heatmaps.device,
            CenterArgs{maps, heatmaps.dtype, radius, heatmaps.data, xy.data,
                       sum ? sum->data : nullptr, argmax ? argmax->data_as<int32_t>() : nullptr},
            &center_cpu, &center_cuda);
}

void center_of_mass_backward(const TensorView& heatmaps, int64_t radius, const TensorView& xy,
                             const TensorView& sum, const TensorView& argmax,
                             const TensorView& d_xy, const TensorView& d_heatmaps) {
  const MapStack maps = map_stack_of("heatmaps", heatmaps);
  const int64_t b = maps.batch, k = maps.channels;
  const DType acc = accumulate_dtype(heatmaps.dtype);
  check(radius >= 0, "radius must be at least 0");
  check_dense("xy", xy, acc, heatmaps.device, {b, k, 2});
  check_dense("sum", sum, acc, heatmaps.device, {b, k});
  check_dense("argmax", argmax, DType::kInt32, heatmaps.device, {b, k});
  check_dense("d_xy", d_xy, acc, heatmaps.device, {b, k, 2});
  check_dense("d_heatmaps", d_heatmaps, heatmaps.dtype, heatmaps.device,
              {b, k, maps.height, maps.width});
  if (maps.count() == 0) return;
  launch_on(heatmaps.device,
            CenterBackwardArgs{maps, heatmaps.dtype, radius, heatmaps.data, xy.data, sum.data,
                               argmax.data_as<int32_t>(), d_xy.data, d_heatmaps.data},
            &center_backward_cpu, &center_backward_cuda);
}

}  // namespace

void bind_soft_argmax(py::module_& m) {
  m.def("soft_argmax_forward", &soft_argmax_forward);
  m.def("soft_argmax_backward", &soft_argmax_backward);
  m.def("center_of_mass_forward", &center_of_mass_forward);
  m.def("center_of_mass_backward", &center_of_mass_backward);
}

}  // namespace facekernels
