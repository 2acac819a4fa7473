// A borrowed, framework-free view of a tensor: what every kernel family receives.
#pragma once

#include <cstdint>

namespace facekernels {

enum class DType : uint8_t {
  kFloat32,
  kFloat64,
  kFloat16,
  kBFloat16,
  kInt32,
  kInt64,
  kUInt8,
  kBool
};

enum class DeviceType : uint8_t { kCpu, kCuda };

struct Device {
  DeviceType type = DeviceType::kCpu;
  int32_t index = 0;

  friend bool operator==(const Device&, const Device&) = default;
};

// Shape and strides belong to the tensor and are valid only while the caller holds it.
// Strides count elements. `data` may be null only when the tensor has no elements.
struct TensorView {
  void* data = nullptr;
  const int64_t* shape = nullptr;
  const int64_t* strides = nullptr;
  int32_t ndim = 0;
  DType dtype = DType::kFloat32;
  Device device;

  int64_t size(int dim) const { return shape[dim]; }
  int64_t stride(int dim) const { return strides[dim]; }

  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < ndim; ++i) n *= shape[i];
    return n;
  }

  bool is_contiguous() const {
    int64_t expected = 1;
    for (int i = ndim - 1; i >= 0; --i) {
      if (shape[i] == 0) return true;
      if (shape[i] != 1 && strides[i] != expected) return false;
      expected *= shape[i];
    }
    return true;
  }

  template <class T>
  T* data_as() const {
    return static_cast<T*>(data);
  }
};

}  // namespace facekernels
