// The part of the DLPack 1.x ABI this package reads (https://dmlc.github.io/dlpack). Declared here
// so that neither torch nor DLPack headers are needed to build; the assertions pin the layout.
#pragma once

#include <cstddef>
#include <cstdint>

namespace facekernels::dlpack {

enum DeviceKind : int32_t { kCpu = 1, kCuda = 2, kCudaHost = 3 };
enum TypeCode : uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBfloat = 4, kBool = 6 };

struct Version {
  uint32_t major;
  uint32_t minor;
};

struct Device {
  DeviceKind kind;
  int32_t index;
};

struct DataType {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;  // in elements; null means contiguous (before DLPack 1.2)
  uint64_t byte_offset;
};

struct ManagedTensor {
  Tensor tensor;
  void* manager;
  void (*deleter)(ManagedTensor*);
};

struct ManagedTensorVersioned {
  Version version;
  void* manager;
  void (*deleter)(ManagedTensorVersioned*);
  uint64_t flags;
  Tensor tensor;
};

struct ExchangeApiHeader {
  Version version;
  ExchangeApiHeader* previous;
};

// Function pointers this package does not call are kept as opaque slots.
struct ExchangeApi {
  ExchangeApiHeader header;
  void* allocate;
  void* managed_tensor_from_object;
  void* managed_tensor_to_object;
  int (*tensor_from_object)(void* object, Tensor* out);  // borrows; null where unsupported
  int (*current_work_stream)(DeviceKind kind, int32_t index, void** stream);
};

static_assert(sizeof(Tensor) == 48 && offsetof(Tensor, shape) == 24 &&
              offsetof(Tensor, byte_offset) == 40);
static_assert(offsetof(ManagedTensor, deleter) == 56);
static_assert(offsetof(ManagedTensorVersioned, flags) == 24 &&
              offsetof(ManagedTensorVersioned, tensor) == 32);
static_assert(offsetof(ExchangeApi, tensor_from_object) == 40 && sizeof(ExchangeApi) == 56);

}  // namespace facekernels::dlpack
