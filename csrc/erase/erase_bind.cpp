#include <pybind11/stl.h>

#include <optional>

#include "binding/launch.h"
#include "binding/ops.h"
#include "core/check.h"
#include "core/dispatch.h"
#include "erase/erase.h"

namespace facekernels {
namespace {

using namespace erase;
using OptionalView = std::optional<TensorView>;

bool is_channels_last(const TensorView& t) {
  const int64_t c = t.size(1), h = t.size(2), w = t.size(3);
  return (c <= 1 || t.stride(1) == 1) && (w <= 1 || t.stride(3) == c) &&
         (h <= 1 || t.stride(2) == c * w) && (t.size(0) <= 1 || t.stride(0) == c * h * w);
}

FillRule fill_rule(const TensorView& images, int64_t kind, double value, double span, double lowest,
                   double highest, int64_t seed, const OptionalView& seed_tensor,
                   const OptionalView& tensor) {
  FillRule rule{static_cast<Fill>(kind), value, span, lowest, highest, seed, nullptr, nullptr, {}};
  check(kind >= 0 && kind <= 2, "fill must be 0 (constant), 1 (tensor) or 2 (noise)");
  if (seed_tensor) {
    check_dtype("seed", *seed_tensor, DType::kInt64);
    check_device("seed", *seed_tensor, images.device);
    check(seed_tensor->numel() == 1, "seed must have one element");
    rule.seed_tensor = seed_tensor->data_as<int64_t>();
  }
  check(tensor.has_value() == (rule.kind == Fill::kTensor), "fill 1 and a fill tensor go together");
  if (tensor) {
    check_dtype("fill", *tensor, images.dtype);
    check_device("fill", *tensor, images.device);
    check_shape("fill", *tensor, {images.size(0), images.size(1), images.size(2), images.size(3)});
    rule.tensor = tensor->data;
    for (int i = 0; i < 4; ++i) rule.stride[i] = tensor->stride(i);
  }
  return rule;
}

Images images_of(const TensorView& x, const FillRule& fill, const TensorView& out,
                 const TensorView& mask) {
  const int64_t b = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3);
  check_dtype("out", out, x.dtype);
  check_device("out", out, x.device);
  check_shape("out", out, {b, c, h, w});
  check_dense("mask", mask, DType::kBool, x.device, {b, 1, h, w});
  const bool channels_last = !x.is_contiguous();
  check_lazy(
      channels_last ? is_channels_last(x) && is_channels_last(out) : out.is_contiguous(), [&] {
        return "images and out must both be contiguous or both channels_last, got strides " +
               shape_string(x.strides, x.ndim) + " and " + shape_string(out.strides, out.ndim);
      });
  return {b, c, h, w, channels_last, x.dtype, x.data, out.data, mask.data_as<uint8_t>(), fill};
}

Attention attention_of(const TensorView& images, const TensorView& attention) {
  check_lazy(images.ndim == 4, [&] {
    return "images must be [B, C, H, W], got shape " + shape_string(images.shape, images.ndim);
  });
  check_lazy(attention.ndim == 4 && attention.size(0) == images.size(0) && attention.size(1) == 1,
             [&] {
               return "attention must be [B, 1, h, w], got shape " +
                      shape_string(attention.shape, attention.ndim);
             });
  check_lazy(attention.dtype == DType::kFloat32 || attention.dtype == DType::kFloat64, [&] {
    return std::string("attention must be float32 or float64, got ") + name_of(attention.dtype);
  });
  check_device("attention", attention, images.device);
  check(attention.is_contiguous(), "attention must be contiguous");
  constexpr int64_t kLimit = int64_t{1} << 31;  // indices within an image are 32-bit
  for (const TensorView* t : {&images, &attention}) {
    const int64_t c = t->size(1), h = t->size(2), w = t->size(3);
    check(c < kLimit && h < kLimit && w < kLimit && h * w < kLimit && (c * h * w) < kLimit,
          "images and attention must have fewer than 2^31 elements per image");
  }
  return {attention.size(2), attention.size(3), attention.dtype, attention.data};
}

// The GPU's rectangles stay where they are: there one without area erases nothing.
void check_rects(const TensorView& rects) {
  if (rects.device.type != DeviceType::kCpu) return;
  const int64_t* const r = rects.data_as<int64_t>();
  for (int64_t i = 0; i < rects.numel(); i += 4) {
    check_lazy(r[i] > 0 && r[i + 1] > 0, [&] {
      return "rects must have heights and widths of at least 1, got " + std::to_string(r[i]) +
             " x " + std::to_string(r[i + 1]);
    });
  }
}

void erase_regions(const TensorView& images, const TensorView& attention, const TensorView& rects,
                   int64_t kind, double value, double span, double lowest, double highest,
                   int64_t seed, const OptionalView& seed_tensor, const OptionalView& fill,
                   const TensorView& out, const TensorView& mask, const TensorView& anchors) {
  const Attention map = attention_of(images, attention);
  check(map.height == images.size(2) && map.width == images.size(3),
        "attention must have the size of the images");
  const int64_t b = images.size(0), rounds = rects.ndim == 3 ? rects.size(1) : 0;
  check_dense("rects", rects, DType::kInt64, images.device, {b, rounds, 4});
  check_dense("anchors", anchors, DType::kInt64, images.device, {b, rounds});
  check_rects(rects);
  const FillRule rule =
      fill_rule(images, kind, value, span, lowest, highest, seed, seed_tensor, fill);
  const Images batch = images_of(images, rule, out, mask);
  if (b == 0) return;
  launch_on(images.device,
            RegionsArgs{batch, map, rounds, rects.data_as<int64_t>(), anchors.data_as<int64_t>()},
            &regions_cpu, &regions_cuda);
}

void erase_top_n(const TensorView& images, const TensorView& attention, int64_t count, int64_t kind,
                 double value, double span, double lowest, double highest, int64_t seed,
                 const OptionalView& seed_tensor, const OptionalView& fill, const TensorView& out,
                 const TensorView& mask) {
  const Attention map = attention_of(images, attention);
  const FillRule rule =
      fill_rule(images, kind, value, span, lowest, highest, seed, seed_tensor, fill);
  const Images batch = images_of(images, rule, out, mask);
  check(batch.pixels() > 0 && map.height * map.width > 0,
        "images and attention must be at least 1 x 1");
  check(count >= 0 && count <= batch.pixels(), "n must be between 0 and H * W");
  if (batch.batch == 0) return;
  launch_on(images.device, TopNArgs{batch, map, count}, &top_n_cpu, &top_n_cuda);
}

}  // namespace

void bind_erase(py::module_& m) {
  m.def("erase_regions", &erase_regions);
  m.def("erase_top_n", &erase_top_n);
}

}  // namespace facekernels
