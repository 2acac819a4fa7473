#include <pybind11/stl.h>

#include <optional>

#include "binding/launch.h"
#include "binding/ops.h"
#include "core/check.h"
#include "core/dispatch.h"
#include "core/image_layout.h"
#include "gradient_attention/gradient_attention.h"

namespace facekernels {
namespace {

using namespace gradient_attention;
using OptionalView = std::optional<TensorView>;

// Distance between images [C, H, W] that are dense themselves, with channels_last as [H, W, C].
int64_t image_stride(const char* name, const TensorView& t, bool channels_last) {
  check_lazy(is_dense_image(t, channels_last), [&] {
    return std::string(name) + " must be contiguous in its last three dimensions";
  });
  return t.stride(0);
}

Reduce reduce_of(int64_t reduce, const OptionalView& features) {
  check(reduce >= 0 && reduce <= static_cast<int64_t>(Reduce::kGradCam),
        "reduce must be in [0, 3]");
  check((reduce == static_cast<int64_t>(Reduce::kGradCam)) == features.has_value(),
        "features must be given for gradcam and only for it");
  return static_cast<Reduce>(reduce);
}

Shape shape_of(const TensorView& grad, const OptionalView& features, bool channels_last = false) {
  check_lazy(grad.ndim == 4, [&] {
    return "grad must be [B, C, H, W], got shape " + shape_string(grad.shape, grad.ndim);
  });
  Shape shape{grad.size(0),
              grad.size(1),
              grad.size(2) * grad.size(3),
              image_stride("grad", grad, channels_last),
              0,
              channels_last};
  check(shape.positions > 0 || shape.batch == 0, "grad must have maps of at least 1 x 1");
  if (features) {
    check_dtype("features", *features, grad.dtype);
    check_device("features", *features, grad.device);
    check_shape("features", *features, {grad.size(0), grad.size(1), grad.size(2), grad.size(3)});
    shape.feature_stride = image_stride("features", *features, channels_last);
  }
  return shape;
}

void gradient_attention_forward(const TensorView& grad, const OptionalView& features,
                                int64_t reduce, bool channels_last, const TensorView& map,
                                const OptionalView& weights) {
  const Reduce kind = reduce_of(reduce, features);
  check(kind == Reduce::kGradCam || !channels_last, "channels_last is for gradcam only");
  const Shape shape = shape_of(grad, features, channels_last);
  const DType acc = accumulate_dtype(grad.dtype);
  check_dense("map", map, acc, grad.device, {grad.size(0), 1, grad.size(2), grad.size(3)});
  check(weights.has_value() == features.has_value(), "weights must be given for gradcam");
  if (weights) check_dense("weights", *weights, acc, grad.device, {grad.size(0), grad.size(1)});
  if (map.numel() == 0) return;
  launch_on(grad.device,
            ForwardArgs{shape, grad.dtype, kind, grad.data, features ? features->data : nullptr,
                        map.data, weights ? weights->data : nullptr},
            &forward_cpu, &forward_cuda);
}

void gradient_attention_backward(const TensorView& grad, const OptionalView& features,
                                 int64_t reduce, const TensorView& map, const OptionalView& weights,
                                 const TensorView& d_map, const TensorView& d_grad,
                                 const OptionalView& d_features) {
  const Reduce kind = reduce_of(reduce, features);
  const Shape shape = shape_of(grad, features);
  const DType acc = accumulate_dtype(grad.dtype);
  const int64_t b = grad.size(0), c = grad.size(1), h = grad.size(2), w = grad.size(3);
  check_dense("map", map, acc, grad.device, {b, 1, h, w});
  check_dense("d_map", d_map, acc, grad.device, {b, 1, h, w});
  check_dense("d_grad", d_grad, grad.dtype, grad.device, {b, c, h, w});
  check(
      weights.has_value() == features.has_value() && d_features.has_value() == features.has_value(),
      "weights and d_features must be given for gradcam");
  if (features) {
    check_dense("weights", *weights, acc, grad.device, {b, c});
    check_dense("d_features", *d_features, grad.dtype, grad.device, {b, c, h, w});
  }
  if (grad.numel() == 0) return;
  launch_on(grad.device,
            BackwardArgs{shape, grad.dtype, kind, grad.data, features ? features->data : nullptr,
                         map.data, weights ? weights->data : nullptr, d_map.data, d_grad.data,
                         d_features ? d_features->data : nullptr},
            &backward_cpu, &backward_cuda);
}

}  // namespace

void bind_gradient_attention(py::module_& m) {
  m.def("gradient_attention_forward", &gradient_attention_forward);
  m.def("gradient_attention_backward", &gradient_attention_backward);
}

}  // namespace facekernels
