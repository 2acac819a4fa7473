#include <pybind11/stl.h>

#include <optional>

#include "binding/launch.h"
#include "binding/ops.h"
#include "core/check.h"
#include "knn/knn.h"

namespace facekernels {
namespace {

using namespace knn;
using OptionalView = std::optional<TensorView>;

bool runs_cuda_kernels([[maybe_unused]] Device device) {
#if defined(FK_EMULATE)
  return true;
#else
  return device.type != DeviceType::kCpu;
#endif
}

// What the tensor-core filter copies in pieces.
bool copies_in_pieces(const TensorView& halves) {
  return halves.size(1) % 16 == 0 && reinterpret_cast<uintptr_t>(halves.data) % 16 == 0;
}

Rows rows_of(const char* name, const TensorView& filter, const TensorView& exact,
             const OptionalView& scale, const TensorView& like_filter,
             const TensorView& like_exact) {
  const int64_t n = exact.size(0);
  const bool halves = like_filter.dtype == DType::kFloat16;
  check_dense(name, filter, halves ? DType::kFloat16 : DType::kFloat32, like_filter.device,
              {n, like_filter.size(1)});
  check_dense(name, exact, like_exact.dtype, like_filter.device, {n, like_exact.size(1)});
  Rows rows{n, halves ? nullptr : filter.data_as<float>(), halves ? filter.data : nullptr,
            exact.data, nullptr};
  if (scale) {
    check_dense("scale", *scale, DType::kFloat64, like_filter.device, {n});
    rows.scale = scale->data_as<double>();
  }
  return rows;
}

void knn_search(const TensorView& query_filter, const TensorView& query,
                const OptionalView& query_scale, const TensorView& filter,
                const TensorView& database, const OptionalView& scale, int64_t metric,
                bool symmetric, int64_t self_offset, const TensorView& slack,
                const TensorView& candidate_score, const TensorView& candidate_index,
                const TensorView& candidate_count, const TensorView& threshold,
                const TensorView& index, const TensorView& score, const TensorView& overflow) {
  const Device device = query.device;
  for (const TensorView* t : {&query_filter, &query, &filter, &database}) {
    check(t->ndim == 2, "queries and database must be [N, D]");
  }
  check_lazy(query.dtype == DType::kFloat32 || query.dtype == DType::kFloat64, [&] {
    return std::string("queries must be float32 or float64, got ") + name_of(query.dtype);
  });
  const bool cuda = runs_cuda_kernels(device);
  if (query_filter.dtype == DType::kFloat16) {
    check(cuda, "filter rows must be float32 on the CPU, got float16");
    check(copies_in_pieces(query_filter) && copies_in_pieces(filter),
          "filter rows in float16 must have a multiple of 16 elements and be aligned to 16 bytes");
  }
  check(metric == 0 || metric == 1, "metric must be 0 (inner product) or 1 (squared distance)");
  check(query_scale.has_value() == scale.has_value(), "both sides have a scale or none has");
  const Rows queries = rows_of("queries", query_filter, query, query_scale, query_filter, query);
  const Rows rows = rows_of("database", filter, database, scale, query_filter, query);
  check(!symmetric || (queries.count == rows.count && queries.exact == rows.exact),
        "symmetric needs the database to be the queries");
  check(rows.count <= INT32_MAX, "database must have fewer than 2^31 rows");
  const int64_t q = queries.count, k = index.ndim == 2 ? index.size(1) : 0;
  const int64_t capacity = candidate_score.ndim == 2 ? candidate_score.size(1) : 0;
  check(k >= 1 && k <= rows.count - (self_offset >= 0), "k must be at least 1 and below the rows");
  check(capacity >= k && (!cuda || capacity <= kMaxCudaCapacity),
        "capacity must be at least k, and at most 2048 on CUDA");
  check_dense("slack", slack, DType::kFloat32, device, {q});
  check_dense("candidate_score", candidate_score, DType::kFloat32, device, {q, capacity});
  check_dense("candidate_index", candidate_index, DType::kInt32, device, {q, capacity});
  check_dense("candidate_count", candidate_count, DType::kInt32, device, {q});
  check_dense("threshold", threshold, DType::kFloat32, device, {q});
  check_dense("index", index, DType::kInt64, device, {q, k});
  check_dense("score", score, DType::kFloat32, device, {q, k});
  check_dense("overflow", overflow, DType::kBool, device, {q});
  if (q == 0) return;
  launch_on(
      device,
      SearchArgs{queries, rows, query_filter.size(1), query.size(1), query.dtype,
                 static_cast<Metric>(metric), symmetric, self_offset, k, slack.data_as<float>(),
                 capacity, candidate_score.data_as<float>(), candidate_index.data_as<int32_t>(),
                 candidate_count.data_as<int32_t>(), threshold.data_as<float>(),
                 index.data_as<int64_t>(), score.data_as<float>(), overflow.data_as<uint8_t>()},
      &search_cpu, &search_cuda);
}

}  // namespace

void bind_knn(py::module_& m) {
  m.def("knn_search", &knn_search);
}

}  // namespace facekernels
