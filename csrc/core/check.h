// Argument checks of the binding layer. The messages are sentences that name the argument, what was
// expected and what came; std::invalid_argument becomes ValueError in Python.
#pragma once

#include <initializer_list>
#include <stdexcept>
#include <string>

#include "core/tensor_view.h"

namespace facekernels {

inline const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return "float32";
    case DType::kFloat64: return "float64";
    case DType::kFloat16: return "float16";
    case DType::kBFloat16: return "bfloat16";
    case DType::kInt32: return "int32";
    case DType::kInt64: return "int64";
    case DType::kUInt8: return "uint8";
    case DType::kBool: return "bool";
  }
  return "unknown";
}

inline std::string name_of(Device device) {
  return device.type == DeviceType::kCpu ? "cpu" : "cuda:" + std::to_string(device.index);
}

inline std::string shape_string(const int64_t* shape, int ndim) {
  std::string text = "(";
  for (int i = 0; i < ndim; ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + ")";
}

inline void check(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

// `check` for the hot path: the message is composed only when the check fails.
template <class MakeMessage>
void check_lazy(bool condition, MakeMessage make_message) {
  if (!condition) [[unlikely]]
    throw std::invalid_argument(make_message());
}

inline void check_dtype(const char* name, const TensorView& t, DType expected) {
  check_lazy(t.dtype == expected, [&] {
    return std::string(name) + " must be " + name_of(expected) + ", got " + name_of(t.dtype);
  });
}

inline void check_device(const char* name, const TensorView& t, Device expected) {
  check_lazy(t.device == expected, [&] {
    return std::string(name) + " must be on " + name_of(expected) + ", got " + name_of(t.device);
  });
}

inline void check_shape(const char* name, const TensorView& t,
                        std::initializer_list<int64_t> expected) {
  bool same = t.ndim == static_cast<int>(expected.size());
  const int64_t* want = expected.begin();
  for (int i = 0; same && i < t.ndim; ++i) same = t.shape[i] == want[i];
  check_lazy(same, [&] {
    return std::string(name) + " must have shape " +
           shape_string(expected.begin(), static_cast<int>(expected.size())) + ", got " +
           shape_string(t.shape, t.ndim);
  });
}

// The common case of outputs and small parameters: dense, of a known shape, dtype and device.
inline void check_dense(const char* name, const TensorView& t, DType dtype, Device device,
                        std::initializer_list<int64_t> shape) {
  check_dtype(name, t, dtype);
  check_device(name, t, device);
  check_shape(name, t, shape);
  check_lazy(t.is_contiguous(), [&] { return std::string(name) + " must be contiguous"; });
}

}  // namespace facekernels
