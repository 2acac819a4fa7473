// From checked arguments to the back end: CPU kernels, CUDA kernels on the caller's stream, or the
// CUDA kernels emulated on the CPU. The GIL is released around all of them.
#pragma once

#include <pybind11/pybind11.h>

#include "binding/device_guard.h"
#include "binding/dlpack_caster.h"
#include "core/stream.h"

namespace facekernels {

template <class Args>
void launch_on(Device device, const Args& args, [[maybe_unused]] void (*cpu)(const Args&),
               [[maybe_unused]] void (*cuda)(const Args&, Stream)) {
#if defined(FK_EMULATE)
  if (device.type != DeviceType::kCpu) {
    throw std::invalid_argument("the emulated back end takes CPU tensors, got cuda");
  }
  py::gil_scoped_release no_gil;
  cuda(args, nullptr);
#else
  if (device.type == DeviceType::kCpu) {
    py::gil_scoped_release no_gil;
    cpu(args);
    return;
  }
  const Stream stream = static_cast<Stream>(current_stream(device));
  py::gil_scoped_release no_gil;
  const DeviceGuard guard(device);
  cuda(args, stream);
#endif
}

}  // namespace facekernels
