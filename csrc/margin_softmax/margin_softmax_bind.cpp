#include "margin_softmax/margin_softmax.h"

#include <pybind11/stl.h>

#include <optional>

#include "binding/launch.h"
#include "binding/ops.h"
#include "core/check.h"
#include "core/dispatch.h"

namespace facekernels {
namespace {

using namespace margin_softmax;
using OptionalView = std::optional<TensorView>;

bool on_cuda([[maybe_unused]] Device device) {
#if defined(FK_EMULATE)
  return true;
#else
  return device.type != DeviceType::kCpu;
#endif
}

// Rows in `index` are checked here for the CPU kernels; those of CUDA check for themselves. A wrong
// label is not read by.
Rows rows_of(const TensorView& embeddings, const TensorView& weight, const OptionalView& index,
             const TensorView& labels, double scale) {
  const Device device = embeddings.device;
  check(embeddings.ndim == 2 && weight.ndim == 2, "embeddings and weight must be matrices");
  const int64_t batch = embeddings.size(0), dim = embeddings.size(1), weights = weight.size(0);
  check_dense("embeddings", embeddings, embeddings.dtype, device, {batch, dim});
  check_dense("weight", weight, embeddings.dtype, device, {weights, dim});
  check_dense("labels", labels, DType::kInt64, device, {batch});
  check_lazy(scale > 0, [&] { return "scale must be above 0, got " + std::to_string(scale); });
  Rows rows{batch,
            dim,
            weights,
            weights,
            embeddings.dtype,
            scale,
            embeddings.data,
            weight.data,
            nullptr,
            labels.data_as<int64_t>()};
  if (index) {
    rows.classes = index->numel();
    check_dense("index", *index, DType::kInt64, device, {rows.classes});
    rows.index = index->data_as<int64_t>();
    for (int64_t i = 0; !on_cuda(device) && i < rows.classes; ++i) {
      const int64_t row = rows.index[i];
      check_lazy(row >= 0 && row < weights, [&] {
        return "index must be between 0 and " + std::to_string(weights - 1) + ", got " +
               std::to_string(row);
      });
    }
  }
  constexpr int64_t kLimit = int64_t{65535} * kTile;  // CUDA's grids along y
  check_lazy(batch <= kLimit && dim <= kLimit, [&] {
    return "embeddings must have at most " + std::to_string(kLimit) + " rows and columns, got " +
           shape_string(embeddings.shape, 2);
  });
  return rows;
}

void* check_kept(const OptionalView& kept, const Rows& rows, DType acc, Device device) {
  if (!kept) return nullptr;
  check(!on_cuda(device), "kept must be None on CUDA");
  check_dense("kept", *kept, acc, device, {rows.classes, kept_row(rows.batch)});
  return kept->data;
}

void margin_softmax_forward(const TensorView& embeddings, const TensorView& weight,
                            const OptionalView& index, const TensorView& labels, double scale,
                            const TensorView& lse, const TensorView& target,
                            const OptionalView& kept, const TensorView& inverse_norms,
                            const TensorView& partial) {
  const Rows rows = rows_of(embeddings, weight, index, labels, scale);
  const Device device = embeddings.device;
  const DType acc = accumulate_dtype(rows.dtype);
  check_dense("lse", lse, acc, device, {rows.batch});
  check_dense("target", target, acc, device, {rows.batch});
  void* const kept_data = check_kept(kept, rows, acc, device);
  int64_t splits = 0;
  if (on_cuda(device)) {
    check_dense("inverse_norms", inverse_norms, acc, device, {rows.batch + rows.classes});
    check(partial.ndim == 3 && partial.size(0) > 0, "partial must be [splits, 2, batch] on CUDA");
    splits = partial.size(0);
    check_dense("partial", partial, acc, device, {splits, 2, rows.batch});
  }
  if (rows.batch == 0) return;
  launch_on(
      device,
      ForwardArgs{rows, lse.data, target.data, kept_data, inverse_norms.data, partial.data, splits},
      &forward_cpu, &forward_cuda);
}

void margin_softmax_backward(const TensorView& embeddings, const TensorView& weight,
                             const OptionalView& index, const TensorView& labels, double scale,
                             const TensorView& lse, const TensorView& d_lse,
                             const TensorView& d_target, const OptionalView& kept,
                             const TensorView& inverse_norms, const OptionalView& d_embeddings,
                             const OptionalView& d_weight, const TensorView& d_cos,
                             const TensorView& d_cos_cos, const TensorView& partial) {
  const Rows rows = rows_of(embeddings, weight, index, labels, scale);
  const Device device = embeddings.device;
  const DType acc = accumulate_dtype(rows.dtype);
  check_dense("lse", lse, acc, device, {rows.batch});
  check_dense("d_lse", d_lse, acc, device, {rows.batch});
  check_dense("d_target", d_target, acc, device, {rows.batch});
  const void* const kept_data = check_kept(kept, rows, acc, device);
  if (d_embeddings) {
    check_dense("d_embeddings", *d_embeddings, rows.dtype, device, {rows.batch, rows.dim});
  }
  if (d_weight) check_dense("d_weight", *d_weight, rows.dtype, device, {rows.classes, rows.dim});
  int64_t chunk = 0, splits = 0;
  if (on_cuda(device)) {
    check_dense("inverse_norms", inverse_norms, acc, device, {rows.batch + rows.classes});
    check_lazy(d_cos.ndim == 2 && d_cos.size(0) > 0 && d_cos.size(0) % kTile == 0, [&] {
      return "d_cos must be [chunk, batch] on CUDA, the chunk a multiple of " +
             std::to_string(kTile) + ", got shape " + shape_string(d_cos.shape, d_cos.ndim);
    });
    chunk = d_cos.size(0);
    check_dense("d_cos", d_cos, acc, device, {chunk, rows.batch});
    check_dense("d_cos_cos", d_cos_cos, acc, device, {chunk});
    if (d_embeddings) {
      check(partial.ndim == 3 && partial.size(0) > 0,
            "partial must be [splits, batch, dim] on CUDA");
      splits = partial.size(0);
      check_dense("partial", partial, acc, device, {splits, rows.batch, rows.dim});
    }
  }
  if (rows.batch == 0 || rows.classes == 0 || rows.dim == 0) return;
  launch_on(
      device,
      BackwardArgs{rows, lse.data, d_lse.data, d_target.data, kept_data,
                   d_embeddings ? d_embeddings->data : nullptr, d_weight ? d_weight->data : nullptr,
                   inverse_norms.data, d_cos.data, d_cos_cos.data, partial.data, chunk, splits},
      &backward_cpu, &backward_cuda);
}

}  // namespace

void bind_margin_softmax(py::module_& m) {
  m.def("margin_softmax_forward", &margin_softmax_forward);
  m.def("margin_softmax_backward", &margin_softmax_backward);
}

}  // namespace facekernels
