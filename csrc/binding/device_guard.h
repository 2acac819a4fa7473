// Makes a device current for the scope of a launch.
#pragma once

#include "core/tensor_view.h"

#if defined(FK_WITH_CUDA)
#include <cuda_runtime_api.h>
#endif

namespace facekernels {

class DeviceGuard {
 public:
#if defined(FK_WITH_CUDA)
  explicit DeviceGuard(Device device) : wanted_(device.index) {
    cudaGetDevice(&previous_);
    if (wanted_ != previous_) cudaSetDevice(wanted_);
  }
  ~DeviceGuard() {
    if (wanted_ != previous_) cudaSetDevice(previous_);
  }
#else
  explicit DeviceGuard(Device) {}
#endif
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

#if defined(FK_WITH_CUDA)
 private:
  int wanted_ = 0;
  int previous_ = 0;
#endif
};

}  // namespace facekernels
