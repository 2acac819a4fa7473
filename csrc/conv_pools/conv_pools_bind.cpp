#include "binding/launch.h"
#include "binding/ops.h"
#include "conv_pools/conv_pools.h"
#include "core/check.h"
#include "core/dispatch.h"

namespace facekernels {
namespace {

using namespace conv_pools;

Shape shape_of(const char* name, const TensorView& map, const TensorView& weight) {
  check_lazy(map.ndim == 4, [&] {
    return std::string(name) + " must be [B, I, H, W], got shape " +
           shape_string(map.shape, map.ndim);
  });
  check_lazy(weight.ndim == 4 && weight.size(1) == map.size(1) && weight.size(2) % 2 == 1 &&
                 weight.size(3) % 2 == 1,
             [&] {
               return "weight must be [O, " + std::to_string(map.size(1)) +
                      ", kh, kw] with odd kh and kw, got shape " +
                      shape_string(weight.shape, weight.ndim);
             });
  constexpr int64_t kLimit = int64_t{1} << 31;  // positions are 32-bit in argmax
  const int64_t height = map.size(2), width = map.size(3);
  check_lazy(
      height > 0 && width > 0 && height < kLimit && width < kLimit && height * width < kLimit, [&] {
        return std::string(name) + " must have between 1 and 2^31 - 1 positions, got shape " +
               shape_string(map.shape, map.ndim);
      });
  return {map.size(0),   map.size(1),    weight.size(0), height,
          width,         weight.size(2), weight.size(3), map.stride(0),
          map.stride(1), map.stride(2),  map.stride(3)};
}

void check_pools(const Shape& s, DType acc, Device device, const TensorView& d_mean,
                 const TensorView& d_max, const TensorView& argmax, const TensorView& workspace) {
  check_dense("d_mean", d_mean, acc, device, {s.batch, s.out_channels});
  check_dense("d_max", d_max, acc, device, {s.batch, s.out_channels});
  check_dense("argmax", argmax, DType::kInt32, device, {s.batch, s.out_channels});
  if (workspace.numel() > 0) {
    check_dense("workspace", workspace, acc, device, {s.batch, s.patch()});
  } else {
#if defined(FK_EMULATE)
    const bool needed = true;
#else
    const bool needed = device.type != DeviceType::kCpu;
#endif
    check(!needed || s.batch * s.patch() == 0, "workspace must not be empty on CUDA");
  }
}

// Values of `argmax` are trusted to be positions of the map.
void conv_pools_d_weight(const TensorView& d_mean, const TensorView& d_max,
                         const TensorView& argmax, const TensorView& x, const TensorView& workspace,
                         const TensorView& d_weight) {
  const Shape s = shape_of("x", x, d_weight);
  const DType acc = accumulate_dtype(x.dtype);
  check_pools(s, acc, x.device, d_mean, d_max, argmax, workspace);
  check_dense("d_weight", d_weight, acc, x.device,
              {s.out_channels, s.in_channels, s.kernel_height, s.kernel_width});
  if (s.out_channels * s.patch() == 0 || s.batch == 0) return;
  launch_on(x.device,
            WeightArgs{s, x.dtype, d_mean.data, d_max.data, argmax.data_as<int32_t>(), x.data,
                       workspace.data, d_weight.data},
            &d_weight_cpu, &d_weight_cuda);
}

void conv_pools_d_input(const TensorView& d_mean, const TensorView& d_max, const TensorView& argmax,
                        const TensorView& weight, const TensorView& workspace,
                        const TensorView& d_input) {
  const Shape s = shape_of("d_input", d_input, weight);
  const DType acc = accumulate_dtype(d_input.dtype);
  check_pools(s, acc, d_input.device, d_mean, d_max, argmax, workspace);
  check_dense("weight", weight, d_input.dtype, d_input.device,
              {s.out_channels, s.in_channels, s.kernel_height, s.kernel_width});
  if (s.batch * s.patch() == 0) return;
  launch_on(d_input.device,
            InputArgs{s, d_input.dtype, d_mean.data, d_max.data, argmax.data_as<int32_t>(),
                      weight.data, workspace.data, d_input.data},
            &d_input_cpu, &d_input_cuda);
}

}  // namespace

void bind_conv_pools(py::module_& m) {
  m.def("conv_pools_d_weight", &conv_pools_d_weight);
  m.def("conv_pools_d_input", &conv_pools_d_input);
}

}  // namespace facekernels
