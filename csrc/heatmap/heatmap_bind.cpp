#include <algorithm>

#include "binding/launch.h"
#include "binding/ops.h"
#include "core/check.h"
#include "core/dispatch.h"
#include "heatmap/heatmap.h"

namespace facekernels {
namespace {

using namespace heatmap;

void check_rows(const char* name, const TensorView& t, int dim) {
  check_lazy(t.size(dim) <= 1 || t.stride(dim) == 1,
             [&] { return std::string(name) + " must have dense rows"; });
}

void decode_heatmaps(const TensorView& heatmaps, int64_t method, int64_t compat, int64_t kernel,
                     double threshold, double invalid_x, double invalid_y, double radius_factor,
                     bool clamp, const TensorView& xy, const TensorView& score,
                     const TensorView& valid) {
  check_lazy(heatmaps.ndim == 4, [&] {
    return "heatmaps must be [B, K, H, W], got shape " +
           shape_string(heatmaps.shape, heatmaps.ndim);
  });
  check(method >= 0 && method < static_cast<int64_t>(Method::kCount), "there is no such method");
  check(compat >= 0 && compat < static_cast<int64_t>(Compat::kCount), "there is no such compat");
  const bool combined = static_cast<Method>(method) == Method::kUdpCombined;
  const int64_t height = heatmaps.size(2), width = heatmaps.size(3);
  const int64_t batch = heatmaps.size(0), per_joint = combined ? 3 : 1;
  const int64_t joints = heatmaps.size(1) / per_joint;
  check(heatmaps.size(1) % per_joint == 0, "heatmaps must have 3 maps per joint");
  check_rows("heatmaps", heatmaps, 3);
  const DType exact = accumulate_dtype(heatmaps.dtype);
  check_dense("xy", xy, exact, heatmaps.device, {batch, joints, 2});
  check_dense("score", score, exact, heatmaps.device, {batch, joints});
  check_dense("valid", valid, DType::kBool, heatmaps.device, {batch, joints});
  if (batch * joints == 0) return;
  check(height > 0 && width > 0, "heatmaps must have maps of at least 1 x 1");
  constexpr int64_t kLimit = int64_t{1} << 31;  // each size first: the product could wrap
  check(height < kLimit && width < kLimit && (height + 64) * (width + 64) < kLimit,
        "a map must have less than 2^31 cells");
  const int64_t side =
      static_cast<Compat>(compat) == Compat::kUdp ? height : std::max(height, width);
  launch_on(heatmaps.device,
            DecodeArgs{static_cast<Method>(method),
                       static_cast<Compat>(compat),
                       heatmaps.dtype,
                       heatmaps.data,
                       batch,
                       joints,
                       per_joint,
                       static_cast<int32_t>(height),
                       static_cast<int32_t>(width),
                       heatmaps.stride(0),
                       heatmaps.stride(1),
                       heatmaps.stride(2),
                       static_cast<int32_t>(kernel),
                       threshold,
                       invalid_x,
                       invalid_y,
                       radius_factor * static_cast<double>(side),
                       clamp,
                       xy.data,
                       score.data,
                       valid.data_as<bool>()},
            &decode_cpu, &decode_cuda);
}

void decode_simcc(const TensorView& x, const TensorView& y, bool dark, bool exact, int64_t kernel,
                  double split, double threshold, double invalid_x, double invalid_y, bool clamp,
                  const TensorView& xy, const TensorView& score, const TensorView& valid) {
  check(x.ndim == 3 && y.ndim == 3, "x and y must be [B, K, N]");
  const int64_t batch = x.size(0), joints = x.size(1);
  check_dtype("y", y, x.dtype);
  check_device("y", y, x.device);
  check_shape("y", y, {batch, joints, y.size(2)});
  check_rows("x", x, 2);
  check_rows("y", y, 2);
  const DType acc = accumulate_dtype(x.dtype);
  check_dense("xy", xy, acc, x.device, {batch, joints, 2});
  check_dense("score", score, acc, x.device, {batch, joints});
  check_dense("valid", valid, DType::kBool, x.device, {batch, joints});
  if (batch * joints == 0) return;
  check(x.size(2) > 0 && y.size(2) > 0, "x and y must have at least 1 bin");
  check(x.size(2) + y.size(2) < int64_t{1} << 31, "x and y must have less than 2^31 bins");
  launch_on(x.device,
            SimccArgs{x.dtype,
                      x.data,
                      y.data,
                      batch,
                      joints,
                      static_cast<int32_t>(x.size(2)),
                      static_cast<int32_t>(y.size(2)),
                      x.stride(0),
                      x.stride(1),
                      y.stride(0),
                      y.stride(1),
                      dark,
                      exact,
                      static_cast<int32_t>(kernel),
                      split,
                      threshold,
                      invalid_x,
                      invalid_y,
                      clamp,
                      xy.data,
                      score.data,
                      valid.data_as<bool>()},
            &simcc_cpu, &simcc_cuda);
}

}  // namespace

void bind_heatmap(py::module_& m) {
  m.def("decode_heatmaps", &decode_heatmaps);
  m.def("decode_simcc", &decode_simcc);
}

}  // namespace facekernels
