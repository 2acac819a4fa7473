#include <pybind11/stl.h>

#include <optional>

#include "binding/launch.h"
#include "binding/ops.h"
#include "core/check.h"
#include "core/dispatch.h"
#include "sga/sga.h"
#include "sga/sga_math.h"

namespace facekernels {
namespace {

using namespace sga;
using OptionalView = std::optional<TensorView>;

// delta is [U, C, H, W]: what every other tensor is checked against.
Perturbations perturbations_of(const TensorView& delta) {
  check_lazy(delta.dtype == DType::kFloat32 || delta.dtype == DType::kFloat64, [&] {
    return std::string("delta must be float32 or float64, got ") + name_of(delta.dtype);
  });
  check_lazy(delta.ndim == 4, [&] {
    return "delta must be [U, C, H, W], got shape " + shape_string(delta.shape, delta.ndim);
  });
  check_lazy(delta.is_contiguous(), [] { return std::string("delta must be contiguous"); });
  return {delta.size(0), delta.size(1), delta.size(2) * delta.size(3)};
}

void check_floating(const char* name, const TensorView& t, DType dtype) {
  const bool half = t.dtype == DType::kFloat16 || t.dtype == DType::kBFloat16;
  check_lazy(t.dtype == dtype || (half && dtype == DType::kFloat32), [&] {
    return std::string(name) + " must be " + name_of(dtype) +
           (dtype == DType::kFloat32 ? ", float16 or bfloat16" : "") + ", got " + name_of(t.dtype);
  });
}

void check_like(const char* name, const TensorView& t, const TensorView& delta) {
  check_dense(name, t, delta.dtype, delta.device,
              {delta.size(0), delta.size(1), delta.size(2), delta.size(3)});
}

const void* channel_values(const char* name, const OptionalView& t, const TensorView& delta) {
  if (!t) return nullptr;
  check_dense(name, *t, delta.dtype, delta.device, {delta.size(1)});
  return t->data;
}

// Whether [C, H, W] of `t`, its last three dimensions, is one run of memory.
void check_dense_images(const char* name, const TensorView& t) {
  int64_t expected = 1;
  for (int dim = t.ndim - 1; dim >= t.ndim - 3; --dim) {
    check_lazy(t.size(dim) == 1 || t.stride(dim) == expected, [&] {
      return std::string(name) + " must be contiguous in its last three dimensions";
    });
    expected *= t.size(dim);
  }
}

Selection selection_of(const TensorView& images, const OptionalView& index,
                       const TensorView& delta) {
  check_lazy(images.dtype == DType::kUInt8 || images.dtype == delta.dtype, [&] {
    return std::string("images must be uint8 or ") + name_of(delta.dtype) + ", got " +
           name_of(images.dtype);
  });
  check_device("images", images, delta.device);
  check_shape("images", images,
              {images.ndim > 0 ? images.size(0) : 0, delta.size(1), delta.size(2), delta.size(3)});
  check_dense_images("images", images);
  Selection selection{images.dtype, images.data, images.size(0), images.stride(0),
                      nullptr,      0,           images.size(0)};
  if (!index) return selection;
  check_dtype("index", *index, DType::kInt64);
  check_device("index", *index, delta.device);
  const bool per_perturbation = index->ndim == 2 && index->size(0) == delta.size(0);
  check_lazy(index->ndim == 1 || per_perturbation, [&] {
    return "index must be [b] or [U, b] with U = " + std::to_string(delta.size(0)) +
           ", got shape " + shape_string(index->shape, index->ndim);
  });
  check_lazy(index->is_contiguous(), [] { return std::string("index must be contiguous"); });
  selection.index = index->data_as<int64_t>();
  selection.batch = index->size(index->ndim - 1);
  selection.index_stride = per_perturbation ? selection.batch : 0;
#if !defined(FK_EMULATE)
  if (delta.device.type == DeviceType::kCpu) {
    for (int64_t i = 0; i < index->numel(); ++i) {
      const int64_t row = selection.index[i];
      if (row < 0 || row >= selection.rows) {
        throw py::index_error("index must be in [0, " + std::to_string(selection.rows) + "), got " +
                              std::to_string(row) + " at position " + std::to_string(i));
      }
    }
  }
#endif
  return selection;
}

void check_step(double step, double epsilon) {
  check(epsilon > 0, "epsilon must be positive");
  check(step > 0 && step <= epsilon, "step must be in (0, epsilon]");
}

void uap_apply(const TensorView& images, const TensorView& delta, const OptionalView& mean,
               const OptionalView& std, const OptionalView& index, const TensorView& out) {
  const Perturbations shape = perturbations_of(delta);
  const Selection selection = selection_of(images, index, delta);
  const void* const mean_data = channel_values("mean", mean, delta);
  const void* const std_data = channel_values("std", std, delta);
  check_floating("out", out, delta.dtype);
  check_dense("out", out, out.dtype, delta.device,
              {shape.count, selection.batch, delta.size(1), delta.size(2), delta.size(3)});
  if (out.numel() == 0) return;
  launch_on(delta.device,
            ApplyArgs{shape, selection, delta.dtype, out.dtype, delta.data, mean_data, std_data,
                      out.data},
            &apply_cpu, &apply_cuda);
}

void sga_inner_step(const TensorView& grad, const TensorView& images, const TensorView& delta,
                    const TensorView& accumulator, const OptionalView& index,
                    const OptionalView& std, double step, double epsilon) {
  const Perturbations shape = perturbations_of(delta);
  const Selection selection = selection_of(images, index, delta);
  const void* const std_data = channel_values("std", std, delta);
  check_like("accumulator", accumulator, delta);
  check_floating("grad", grad, delta.dtype);
  check_device("grad", grad, delta.device);
  check_shape("grad", grad,
              {shape.count, selection.batch, delta.size(1), delta.size(2), delta.size(3)});
  check_dense_images("grad", grad);
  check_step(step, epsilon);
  check(selection.batch > 0, "grad must hold at least one sample");
  if (delta.numel() == 0) return;
  launch_on(delta.device,
            InnerArgs{shape, selection, delta.dtype, grad.dtype, step, epsilon, grad.data,
                      grad.stride(0), grad.stride(1), std_data, delta.data, accumulator.data},
            &inner_cpu, &inner_cuda);
}

void sga_outer_step(const TensorView& delta, const TensorView& accumulator,
                    const OptionalView& velocity, const OptionalView& partial, double step,
                    double epsilon, double momentum) {
  const Perturbations shape = perturbations_of(delta);
  check_like("accumulator", accumulator, delta);
  check(velocity.has_value() == partial.has_value(),
        "velocity and partial must both be given or both be None");
  if (velocity) {
    check_like("velocity", *velocity, delta);
    check_dense("partial", *partial, delta.dtype, delta.device,
                {shape.count, norm_chunks(shape.size())});
  }
  check_step(step, epsilon);
  if (delta.numel() == 0) return;
  launch_on(delta.device,
            OuterArgs{shape, delta.dtype, step, epsilon, momentum, delta.data, accumulator.data,
                      velocity ? velocity->data : nullptr, partial ? partial->data : nullptr},
            &outer_cpu, &outer_cuda);
}

void sga_aggregate(const TensorView& grads, const TensorView& delta, const OptionalView& weights,
                   double step, double epsilon, const TensorView& out) {
  const Perturbations shape = perturbations_of(delta);
  check_floating("grads", grads, delta.dtype);
  check_lazy(grads.ndim == 6, [&] {
    return "grads must be [U, E, M, C, H, W], got shape " + shape_string(grads.shape, grads.ndim);
  });
  const int64_t ensemble = grads.size(1), samples = grads.size(2);
  check_dense("grads", grads, grads.dtype, delta.device,
              {shape.count, ensemble, samples, delta.size(1), delta.size(2), delta.size(3)});
  if (weights) check_dense("weights", *weights, delta.dtype, delta.device, {ensemble});
  check_like("out", out, delta);
  check_step(step, epsilon);
  if (delta.numel() == 0) return;
  launch_on(delta.device,
            AggregateArgs{shape, delta.dtype, grads.dtype, step, epsilon, ensemble, samples,
                          grads.data, delta.data, weights ? weights->data : nullptr, out.data},
            &aggregate_cpu, &aggregate_cuda);
}

}  // namespace

void bind_sga(py::module_& m) {
  m.def("uap_apply", &uap_apply);
  m.def("sga_inner_step", &sga_inner_step);
  m.def("sga_outer_step", &sga_outer_step);
  m.def("sga_aggregate", &sga_aggregate);
}

}  // namespace facekernels
