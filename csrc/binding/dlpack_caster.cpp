#include "binding/dlpack_caster.h"

#include <stdexcept>

namespace facekernels {
namespace {

constexpr const char* kAttribute = "__dlpack_c_exchange_api__";

const dlpack::ExchangeApi* last_api = nullptr;  // set by the first tensor; guarded by the GIL

const dlpack::ExchangeApi* look_up(PyTypeObject* type) {
  PyObject* capsule = PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), kAttribute);
  if (capsule == nullptr) {
    PyErr_Clear();
    return nullptr;
  }
  // The table is static data of the producer: it outlives the capsule.
  auto* api =
      static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
  Py_DECREF(capsule);
  if (api == nullptr) {
    PyErr_Clear();
    return nullptr;
  }
  // A newer major version may chain to tables of older ones.
  const dlpack::ExchangeApiHeader* header = &api->header;
  while (header != nullptr && header->version.major != 1) header = header->previous;
  api = reinterpret_cast<const dlpack::ExchangeApi*>(header);
  return api != nullptr && api->tensor_from_object != nullptr ? api : nullptr;
}

DType dtype_of(dlpack::DataType t) {
  if (t.lanes == 1) {
    switch (t.code << 8 | t.bits) {
      case dlpack::kFloat << 8 | 32: return DType::kFloat32;
      case dlpack::kFloat << 8 | 64: return DType::kFloat64;
      case dlpack::kFloat << 8 | 16: return DType::kFloat16;
      case dlpack::kBfloat << 8 | 16: return DType::kBFloat16;
      case dlpack::kInt << 8 | 32: return DType::kInt32;
      case dlpack::kInt << 8 | 64: return DType::kInt64;
      case dlpack::kUInt << 8 | 8: return DType::kUInt8;
      case dlpack::kBool << 8 | 8: return DType::kBool;
    }
  }
  throw py::type_error("no kernel takes a tensor of DLPack type code " + std::to_string(t.code) +
                       " with " + std::to_string(t.bits) + " bits");
}

}  // namespace

const dlpack::ExchangeApi* exchange_api_of(PyTypeObject* type) {
  // Two entries serve torch.Tensor and torch.nn.Parameter. Types are kept alive by a reference.
  struct Entry {
    PyTypeObject* type = nullptr;
    const dlpack::ExchangeApi* api = nullptr;
  };
  static Entry cache[2];
  if (cache[0].type == type) return cache[0].api;
  if (cache[1].type == type) return cache[1].api;
  const dlpack::ExchangeApi* api = look_up(type);
  if (api == nullptr) return nullptr;
  Py_INCREF(reinterpret_cast<PyObject*>(type));
  Py_XDECREF(reinterpret_cast<PyObject*>(cache[1].type));
  cache[1] = cache[0];
  cache[0] = {type, api};
  last_api = api;
  return api;
}

void* current_stream(Device device) {
  void* stream = nullptr;
  if (last_api != nullptr &&
      last_api->current_work_stream(dlpack::kCuda, device.index, &stream) != 0) {
    throw py::error_already_set();
  }
  return stream;
}

void fill_view(const dlpack::Tensor& tensor, TensorView& view) {
  view.data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  view.shape = tensor.shape;
  view.strides = tensor.strides;
  view.ndim = tensor.ndim;
  view.dtype = dtype_of(tensor.dtype);
  switch (tensor.device.kind) {
    case dlpack::kCpu:
    case dlpack::kCudaHost: view.device = {DeviceType::kCpu, 0}; break;
    case dlpack::kCuda: view.device = {DeviceType::kCuda, tensor.device.index}; break;
    default:
      throw py::value_error("tensors must be on the CPU or a CUDA device, got DLPack device kind " +
                            std::to_string(tensor.device.kind));
  }
  // A fake or wrapper tensor describes memory it does not have.
  if (tensor.data == nullptr && view.numel() > 0) {
    throw py::value_error("a tensor without memory (fake, meta or wrapper) reached a kernel");
  }
}

const dlpack::Tensor& DlpackCapsule::open(py::handle object) {
  if (!py::hasattr(object, "__dlpack__")) {
    throw py::type_error(std::string("expected a tensor, got ") + Py_TYPE(object.ptr())->tp_name);
  }
  capsule_ = object.attr("__dlpack__")();
  if (PyCapsule_IsValid(capsule_.ptr(), "dltensor_versioned")) {
    tensor_ = static_cast<dlpack::ManagedTensorVersioned*>(
                  PyCapsule_GetPointer(capsule_.ptr(), "dltensor_versioned"))
                  ->tensor;
  } else if (PyCapsule_IsValid(capsule_.ptr(), "dltensor")) {
    tensor_ = static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule_.ptr(), "dltensor"))
                  ->tensor;
  } else {
    throw py::type_error(std::string("__dlpack__ of ") + Py_TYPE(object.ptr())->tp_name +
                         " gave no DLPack capsule");
  }
  if (tensor_.strides == nullptr) {
    if (tensor_.ndim > 16) throw py::value_error("tensors may have at most 16 dimensions");
    int64_t stride = 1;
    for (int i = tensor_.ndim - 1; i >= 0; --i) {
      dense_strides_[i] = stride;
      stride *= tensor_.shape[i];
    }
    tensor_.strides = dense_strides_;
  }
  return tensor_;
}

}  // namespace facekernels
