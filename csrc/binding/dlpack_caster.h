// Teaches pybind11 to turn a tensor into a TensorView.
//
// torch (>= 2.10) publishes a table of C functions on the tensor type; one call fills a DLPack
// struct without an allocation or a reference count. Other producers (NumPy, CuPy, JAX, older
// torch) go through the standard __dlpack__ protocol. A load never returns false: pybind11's own
// TypeError would print whole tensors.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "binding/dlpack.h"
#include "core/tensor_view.h"

namespace facekernels {

namespace py = pybind11;

// The exchange table of a Python type, or null. Cached per type: the attribute is looked up once.
const dlpack::ExchangeApi* exchange_api_of(PyTypeObject* type);

// The caller's current stream on `device`, as the framework that made the tensors sees it.
void* current_stream(Device device);

// Fills `view` from a DLPack struct; raises for devices and dtypes no kernel takes.
void fill_view(const dlpack::Tensor& tensor, TensorView& view);

// `object.__dlpack__()`, kept alive for the duration of the call.
class DlpackCapsule {
 public:
  DlpackCapsule() = default;
  DlpackCapsule(const DlpackCapsule&) = delete;
  DlpackCapsule& operator=(const DlpackCapsule&) = delete;

  const dlpack::Tensor& open(py::handle object);

 private:
  py::object capsule_;         // its destructor releases the tensor: it is never consumed
  int64_t dense_strides_[16];  // for producers that leave strides null
  dlpack::Tensor tensor_;
};

}  // namespace facekernels

namespace pybind11::detail {

template <>
struct type_caster<facekernels::TensorView> {
  PYBIND11_TYPE_CASTER(facekernels::TensorView, const_name("torch.Tensor"));

  bool load(handle source, bool) {
    using namespace facekernels;
    if (const dlpack::ExchangeApi* api = exchange_api_of(Py_TYPE(source.ptr()))) {
      dlpack::Tensor tensor;
      if (api->tensor_from_object(source.ptr(), &tensor) != 0) throw error_already_set();
      fill_view(tensor, value);
    } else {
      fill_view(capsule_.open(source), value);
    }
    return true;
  }

 private:
  facekernels::DlpackCapsule capsule_;
};

}  // namespace pybind11::detail
