// facekernels::launch: runs every block of a grid, then returns. Errors are DeviceError.
#pragma once

#include <tuple>
#include <type_traits>
#include <utility>

#include "runtime.h"

namespace facekernels {

// Arguments are converted once to the kernel's parameter types, as nvcc's launch does.
// An empty grid launches nothing. The stream is ignored: a launch is finished when it returns.
template <class... Params, class... Args>
void launch(const char* kernel_name, dim3 grid, dim3 block, size_t smem_bytes, cudaStream_t,
            void (*kernel)(Params...), Args&&... args) {
  using Parameters = std::tuple<std::decay_t<Params>...>;
  struct Call {
    void (*kernel)(Params...);
    Parameters parameters;
  };
  Call call{kernel, Parameters(static_cast<std::decay_t<Params>>(std::forward<Args>(args))...)};
  const auto run_thread = [](void* opaque) {
    const Call& c = *static_cast<const Call*>(opaque);
    std::apply([&c](const auto&... parameter) { c.kernel(parameter...); }, c.parameters);
  };
  emulation::run_grid(kernel_name, reinterpret_cast<const void*>(kernel), grid, block, smem_bytes,
                      run_thread, &call);
}

}  // namespace facekernels
