#include <algorithm>
#include <cmath>

#include "binding/launch.h"
#include "binding/map_stack.h"
#include "binding/ops.h"
#include "core/check.h"
#include "core/dispatch.h"
#include "peaks/peaks.h"

namespace facekernels {
namespace {

using namespace peaks;

// The largest value of the maps' accumulator type that is not above `threshold`: exactly the same
// cells are above both.
double representable(double threshold, DType dtype) {
  if (dtype == DType::kFloat64) return threshold;
  const float rounded = static_cast<float>(threshold);
  return rounded > threshold ? std::nextafter(rounded, -HUGE_VALF) : rounded;
}

void heatmap_peaks(const TensorView& heatmaps, int64_t kernel, double threshold, bool strict,
                   const TensorView& xy, const TensorView& score, const TensorView& index,
                   const TensorView& count) {
  const MapStack maps = map_stack_of("heatmaps", heatmaps);
  const int64_t b = maps.batch, k = maps.channels;
  const int64_t topk = score.ndim == 3 ? score.size(2) : 0;
  check(kernel >= 1 && kernel % 2 == 1, "kernel must be odd and positive");
  check(!std::isnan(threshold), "threshold must be a number");
  check_dense("xy", xy, accumulate_dtype(heatmaps.dtype), heatmaps.device, {b, k, topk, 2});
  check_dense("score", score, heatmaps.dtype, heatmaps.device, {b, k, topk});
  check_dense("index", index, DType::kInt64, heatmaps.device, {b, k, topk});
  check_dense("count", count, DType::kInt64, heatmaps.device, {b, k});
  if (maps.count() == 0) return;
  const int64_t radius = std::min(kernel / 2, std::max(maps.width, maps.height));
  launch_on(heatmaps.device,
            PeaksArgs{maps, heatmaps.dtype, radius, representable(threshold, heatmaps.dtype),
                      strict, topk, heatmaps.data, xy.data, score.data, index.data_as<int64_t>(),
                      count.data_as<int64_t>()},
            &peaks_cpu, &peaks_cuda);
}

}  // namespace

void bind_peaks(py::module_& m) {
  m.def("heatmap_peaks", &heatmap_peaks);
}

}  // namespace facekernels
