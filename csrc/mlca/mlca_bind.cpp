#include "binding/launch.h"
#include "binding/ops.h"
#include "core/check.h"
#include "core/dispatch.h"
#include "mlca/mlca.h"

namespace facekernels {
namespace {

using namespace mlca;

// [G, B, C, H, W] whose H and W walk memory as one dimension.
MapLayout layout_of(const char* name, const TensorView& x) {
  check_lazy(x.ndim == 5, [&] {
    return std::string(name) + " must be [G, B, C, H, W], got shape " +
           shape_string(x.shape, x.ndim);
  });
  const int64_t height = x.size(3), width = x.size(4);
  constexpr int64_t kLimit = int64_t{1} << 31;  // positions are 32-bit in the kernels and argmax
  check_lazy(height < kLimit && width < kLimit && height * width < kLimit, [&] {
    return std::string(name) + " must have fewer than 2^31 positions, got shape " +
           shape_string(x.shape, x.ndim);
  });
  const int64_t stride = width > 1 ? x.stride(4) : height > 1 ? x.stride(3) : 1;
  const bool flat = height <= 1 || width <= 1 || x.stride(3) == width * x.stride(4);
  check_lazy(flat && (stride == 1 || x.stride(2) == 1 || x.size(2) == 1), [&] {
    return std::string(name) + " must be contiguous in [C, H, W] or in [H, W, C], got strides " +
           shape_string(x.strides, x.ndim);
  });
  check_lazy(height * width > 0 || x.numel() == 0,
             [&] { return std::string(name) + " must have a map of at least one position"; });
  return {x.size(0),   x.size(1),   x.size(2),   height * width,
          x.stride(0), x.stride(1), x.stride(2), stride};
}

// `relu_mean` and `argmax` may be tensors without elements: then they are not computed.
// The kernels of the gate have a row of the grid for each group.
void check_groups(Device device, int64_t groups) {
  check(device.type == DeviceType::kCpu || groups <= 65535,
        "at most 65535 groups are possible on CUDA");
}

void mlca_forward(const TensorView& x, const TensorView& w1, const TensorView& b1,
                  const TensorView& w2, const TensorView& b2, bool average, const TensorView& out,
                  const TensorView& scale, const TensorView& mean, const TensorView& max,
                  const TensorView& relu_mean, const TensorView& argmax, const TensorView& pre) {
  const MapLayout m = layout_of("x", x);
  const DType acc = accumulate_dtype(x.dtype);
  const int64_t g = m.groups, b = m.batch, c = m.channels, r = w1.ndim == 3 ? w1.size(1) : 0;
  check_dense("w1", w1, acc, x.device, {g, r, c});
  check_dense("b1", b1, acc, x.device, {g, r});
  check_dense("w2", w2, acc, x.device, {g, c, r});
  check_dense("b2", b2, acc, x.device, {g, c});
  check_dense("out", out, x.dtype, x.device, {g, b, c});
  check_dense("scale", scale, acc, x.device, {g, b, c});
  check_dense("mean", mean, acc, x.device, {g, b, c});
  check_dense("max", max, acc, x.device, {g, b, c});
  const bool with_argmax = argmax.numel() > 0;
  if (with_argmax) check_dense("argmax", argmax, DType::kInt32, x.device, {g, b, c});
  if (average) check_dense("relu_mean", relu_mean, acc, x.device, {g, b, c});
  check_dense("pre", pre, acc, x.device, {g, b, 2, r});
  check_groups(x.device, g);
  if (m.rows() == 0) return;
  launch_on(
      x.device,
      ForwardArgs{m, x.dtype, r, average, false, x.data, w1.data, b1.data, w2.data, b2.data,
                  out.data, scale.data, mean.data, max.data, average ? relu_mean.data : nullptr,
                  with_argmax ? argmax.data_as<int32_t>() : nullptr, pre.data},
      &forward_cpu, &forward_cuda);
}

// The first half of mlca_forward: the pools of every channel, without the gate.
void mlca_pools(const TensorView& x, const TensorView& mean, const TensorView& max,
                const TensorView& argmax) {
  const MapLayout m = layout_of("x", x);
  const DType acc = accumulate_dtype(x.dtype);
  check_dense("mean", mean, acc, x.device, {m.groups, m.batch, m.channels});
  check_dense("max", max, acc, x.device, {m.groups, m.batch, m.channels});
  check_dense("argmax", argmax, DType::kInt32, x.device, {m.groups, m.batch, m.channels});
  if (m.rows() == 0) return;
  ForwardArgs args{};
  args.layout = m;
  args.dtype = x.dtype;
  args.pools_only = true;
  args.x = x.data;
  args.mean = mean.data;
  args.max = max.data;
  args.argmax = argmax.data_as<int32_t>();
  launch_on(x.device, args, &forward_cpu, &forward_cuda);
}

// Tensors without elements: `d_out` or `d_scale` where no gradient comes that way; `relu_mean` and
// `d_relu_mean` for max pooling; `d_mean` to `d_relu_mean` or `dw1` to `db2` where the gradients of
// the pools or of the weights are not wanted. `dz` and `d_pre` are workspace.
void mlca_gate_backward(const TensorView& d_out, const TensorView& d_scale, const TensorView& w1,
                        const TensorView& w2, const TensorView& scale, const TensorView& mean,
                        const TensorView& max, const TensorView& relu_mean, const TensorView& pre,
                        const TensorView& dz, const TensorView& d_pre, const TensorView& d_mean,
                        const TensorView& d_max, const TensorView& d_relu_mean,
                        const TensorView& dw1, const TensorView& db1, const TensorView& dw2,
                        const TensorView& db2) {
  check_lazy(scale.ndim == 3 && w1.ndim == 3, [&] {
    return "scale must be [G, B, C] and w1 [G, R, C], got shapes " +
           shape_string(scale.shape, scale.ndim) + " and " + shape_string(w1.shape, w1.ndim);
  });
  const int64_t g = scale.size(0), b = scale.size(1), c = scale.size(2), r = w1.size(1);
  const Device device = scale.device;
  const DType acc = scale.dtype;
  check_lazy(acc == DType::kFloat32 || acc == DType::kFloat64,
             [&] { return std::string("scale must be float32 or float64, got ") + name_of(acc); });
  auto dense = [&](const char* name, const TensorView& t, std::initializer_list<int64_t> shape) {
    check_dense(name, t, acc, device, shape);
  };
  auto pointer = [](const TensorView& t) { return t.numel() > 0 ? t.data : nullptr; };
  const bool average = relu_mean.numel() > 0;
  if (d_out.numel() > 0) {
    check(accumulate_dtype(d_out.dtype) == acc, "d_out must be of the dtype that scale belongs to");
    check_dense("d_out", d_out, d_out.dtype, device, {g, b, c});
  }
  if (d_scale.numel() > 0) dense("d_scale", d_scale, {g, b, c});
  dense("w1", w1, {g, r, c});
  dense("w2", w2, {g, c, r});
  dense("scale", scale, {g, b, c});
  dense("mean", mean, {g, b, c});
  dense("max", max, {g, b, c});
  if (average) dense("relu_mean", relu_mean, {g, b, c});
  dense("pre", pre, {g, b, 2, r});
  dense("dz", dz, {g, b, c});
  dense("d_pre", d_pre, {g, b, 2, r});
  const bool pools = d_mean.numel() > 0, weights = db2.numel() > 0;
  if (pools) {
    dense("d_mean", d_mean, {g, b, c});
    dense("d_max", d_max, {g, b, c});
    if (average) dense("d_relu_mean", d_relu_mean, {g, b, c});
  }
  if (weights) {
    dense("dw1", dw1, {g, r, c});
    dense("db1", db1, {g, r});
    dense("dw2", dw2, {g, c, r});
    dense("db2", db2, {g, c});
  }
  check(g * b * c > 0, "scale must have elements");
  check_groups(device, g);
  GateBackwardArgs args{};
  args.groups = g, args.batch = b, args.channels = c, args.hidden = r;
  args.dtype = d_out.numel() > 0 ? d_out.dtype : acc;
  args.average = average;
  args.d_out = pointer(d_out), args.d_scale = pointer(d_scale);
  args.w1 = w1.data, args.w2 = w2.data;
  args.scale = scale.data, args.mean = mean.data, args.max = max.data;
  args.relu_mean = pointer(relu_mean), args.pre = pre.data;
  args.dz = dz.data, args.d_pre = d_pre.data;
  if (pools) {
    args.d_mean = d_mean.data, args.d_max = d_max.data;
    args.d_relu_mean = average ? d_relu_mean.data : nullptr;
  }
  if (weights) args.dw1 = dw1.data, args.db1 = db1.data, args.dw2 = dw2.data, args.db2 = db2.data;
  launch_on(device, args, &gate_backward_cpu, &gate_backward_cuda);
}

// `x` is read only for average pooling; otherwise any tensor without elements stands for it.
void mlca_backward(const TensorView& d_mean, const TensorView& d_max, const TensorView& argmax,
                   const TensorView& d_relu_mean, const TensorView& x, const TensorView& dx) {
  const MapLayout m = layout_of("dx", dx);
  const DType acc = accumulate_dtype(dx.dtype);
  const int64_t g = m.groups, b = m.batch, c = m.channels;
  check_dense("d_mean", d_mean, acc, dx.device, {g, b, c});
  check_dense("d_max", d_max, acc, dx.device, {g, b, c});
  check_dense("argmax", argmax, DType::kInt32, dx.device, {g, b, c});
  const bool average = d_relu_mean.numel() > 0;
  if (average) {
    check_dense("d_relu_mean", d_relu_mean, acc, dx.device, {g, b, c});
    check_dtype("x", x, dx.dtype);
    check_device("x", x, dx.device);
    const MapLayout of_x = layout_of("x", x);
    check(of_x.stride_group == m.stride_group && of_x.stride_batch == m.stride_batch &&
              of_x.stride_channel == m.stride_channel &&
              of_x.stride_position == m.stride_position && of_x.positions == m.positions,
          "x and dx must have the same strides");
  }
  if (m.rows() == 0) return;
  launch_on(dx.device,
            BackwardArgs{m, dx.dtype, d_mean.data, d_max.data, argmax.data_as<int32_t>(),
                         average ? d_relu_mean.data : nullptr, average ? x.data : nullptr, dx.data},
            &backward_cpu, &backward_cuda);
}

}  // namespace

void bind_mlca(py::module_& m) {
  m.def("mlca_forward", &mlca_forward);
  m.def("mlca_pools", &mlca_pools);
  m.def("mlca_gate_backward", &mlca_gate_backward);
  m.def("mlca_backward", &mlca_backward);
}

}  // namespace facekernels
