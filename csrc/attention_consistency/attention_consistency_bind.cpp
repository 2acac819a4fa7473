#include <pybind11/stl.h>

#include <optional>

#include "attention_consistency/attention_consistency.h"
#include "binding/launch.h"
#include "binding/ops.h"
#include "core/check.h"
#include "core/dispatch.h"
#include "core/image_layout.h"

namespace facekernels {
namespace {

using namespace attention_consistency;
using OptionalView = std::optional<TensorView>;

void check_maps(const char* name, const TensorView& t) {
  check_lazy(t.ndim == 4 && t.size(1) > 0 && t.size(2) > 0 && t.size(3) > 0, [&] {
    return std::string(name) + " must be [B, C, H, W] of at least 1 x 1 x 1, got shape " +
           shape_string(t.shape, t.ndim);
  });
  // The kernels count positions, and an image's positions times octets of channels, in 32 bits.
  const double positions = static_cast<double>(t.size(2)) * static_cast<double>(t.size(3));
  check_lazy(positions < 0x1p31 && positions * static_cast<double>(t.size(1)) < 0x1p34, [&] {
    return std::string(name) +
           " must have fewer than 2^31 positions and 2^34 elements per image, " + "got shape " +
           shape_string(t.shape, t.ndim);
  });
}

// Whether the images are [H, W, C]; an error if they are neither that nor all [C, H, W].
bool channels_last_of(const TensorView& a, const TensorView& b) {
  if (is_dense_image(a, false) && is_dense_image(b, false)) return false;
  check(is_dense_image(a, true) && is_dense_image(b, true),
        "both views must be contiguous in [C, H, W], or both in [H, W, C]");
  return true;
}

Shape shape_of(const TensorView& maps, const TensorView& weight, bool channels_last) {
  check_lazy(weight.ndim == 2 && weight.size(0) > 0, [&] {
    return "weight must be [K, C], got shape " + shape_string(weight.shape, weight.ndim);
  });
  const Shape shape{maps.size(0), maps.size(1),   maps.size(2),
                    maps.size(3), weight.size(0), channels_last};
  check_dense("weight", weight, accumulate_dtype(maps.dtype), maps.device,
              {shape.classes, shape.channels});
  return shape;
}

const void* class_weights_of(const OptionalView& class_weights, const TensorView& weight) {
  if (!class_weights) return nullptr;
  check_dense("class_weights", *class_weights, weight.dtype, weight.device, {weight.size(0)});
  return class_weights->data;
}

// Without `loss` only the residual is computed. A loss of one dimension is per sample.
void attention_consistency_forward(const TensorView& features, const TensorView& flipped,
                                   const TensorView& weight, const OptionalView& class_weights,
                                   const TensorView& residual, const OptionalView& squares,
                                   const OptionalView& loss, const OptionalView& per_class) {
  check_maps("features", features);
  check_dtype("flipped", flipped, features.dtype);
  check_device("flipped", flipped, features.device);
  check_shape("flipped", flipped,
              {features.size(0), features.size(1), features.size(2), features.size(3)});
  const Shape shape = shape_of(features, weight, channels_last_of(features, flipped));
  const DType acc = weight.dtype;
  check_dense("residual", residual, acc, features.device,
              {shape.batch, shape.classes, shape.height, shape.width});
  check(loss.has_value() == squares.has_value() && loss.has_value() == per_class.has_value(),
        "squares, loss and per_class must be given together");
  ForwardArgs args{};
  args.shape = shape;
  args.dtype = features.dtype;
  args.features_stride = features.stride(0), args.flipped_stride = flipped.stride(0);
  args.features = features.data, args.flipped = flipped.data, args.weight = weight.data;
  args.class_weights = class_weights_of(class_weights, weight);
  args.residual = residual.data;
  if (loss) {
    args.per_sample = loss->ndim == 1;
    check_dense("squares", *squares, acc, features.device,
                {shape.batch, shape.tiles(), shape.classes});
    if (args.per_sample) {
      check_dense("loss", *loss, acc, features.device, {shape.batch});
      check_dense("per_class", *per_class, acc, features.device, {shape.batch, shape.classes});
    } else {
      check_dense("loss", *loss, acc, features.device, {});
      check_dense("per_class", *per_class, acc, features.device, {shape.classes});
    }
    args.squares = squares->data, args.loss = loss->data, args.per_class = per_class->data;
  }
  if (shape.batch == 0 && (!loss || args.per_sample)) return;
  launch_on(features.device, args, &forward_cpu, &forward_cuda);
}

// Without d_loss and d_class the residual is the gradient of the residual.
void attention_consistency_backward(const TensorView& residual, const TensorView& weight,
                                    const OptionalView& class_weights, const OptionalView& d_loss,
                                    const OptionalView& d_class, const OptionalView& d_features,
                                    const OptionalView& d_flipped) {
  check(d_features.has_value() || d_flipped.has_value(), "d_features or d_flipped must be given");
  const TensorView& first = d_features ? *d_features : *d_flipped;
  const TensorView& second = d_flipped ? *d_flipped : *d_features;
  check_maps("d_features", first);
  check_shape("d_flipped", second, {first.size(0), first.size(1), first.size(2), first.size(3)});
  check_dtype("d_flipped", second, first.dtype);
  check_device("d_flipped", second, first.device);
  const Shape shape = shape_of(first, weight, channels_last_of(first, second));
  for (const TensorView* t : {&first, &second}) {
    check(shape.batch <= 1 || t->stride(0) == shape.size(), "gradients must have no gaps");
  }
  const DType acc = weight.dtype;
  check_dense("residual", residual, acc, first.device,
              {shape.batch, shape.classes, shape.height, shape.width});
  BackwardArgs args{};
  args.shape = shape;
  args.dtype = first.dtype;
  args.residual = residual.data, args.weight = weight.data;
  args.class_weights = class_weights_of(class_weights, weight);
  args.per_sample = d_loss ? d_loss->ndim == 1 : d_class && d_class->ndim == 2;
  if (d_loss && args.per_sample) check_dense("d_loss", *d_loss, acc, first.device, {shape.batch});
  if (d_loss && !args.per_sample) check_dense("d_loss", *d_loss, acc, first.device, {});
  if (d_class && args.per_sample) {
    check_dense("d_class", *d_class, acc, first.device, {shape.batch, shape.classes});
  } else if (d_class) {
    check_dense("d_class", *d_class, acc, first.device, {shape.classes});
  }
  args.d_loss = d_loss ? d_loss->data : nullptr;
  args.d_class = d_class ? d_class->data : nullptr;
  args.d_features = d_features ? d_features->data : nullptr;
  args.d_flipped = d_flipped ? d_flipped->data : nullptr;
  if (shape.batch == 0) return;
  launch_on(first.device, args, &backward_cpu, &backward_cuda);
}

}  // namespace

void bind_attention_consistency(py::module_& m) {
  m.def("attention_consistency_forward", &attention_consistency_forward);
  m.def("attention_consistency_backward", &attention_consistency_backward);
}

}  // namespace facekernels
