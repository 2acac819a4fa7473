// device.cuh for nvcc: the real CUDA headers, and a launch that names its errors.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_pipeline_primitives.h>
#include <cuda_runtime.h>
#include <math.h>

#include <cstddef>
#include <stdexcept>
#include <string>
#include <utility>

#define FK_SHARED(T, name, dims) __shared__ T name dims

// Every kernel of a translation unit shares this one symbol, so it has one type for all.
#define FK_DYN_SHARED(T, name)                                            \
  extern __shared__ __align__(16) unsigned char facekernels_dyn_shared[]; \
  T* const name = reinterpret_cast<T*>(facekernels_dyn_shared)

#define FK_UNROLL _Pragma("unroll")

namespace facekernels {

[[noreturn]] inline void throw_launch_error(const char* kernel_name, cudaError_t error) {
  cudaGetLastError();  // a launch error is not sticky: leave none behind for the next caller
  std::string message = std::string("launch of ") + kernel_name +
                        " failed: " + cudaGetErrorName(error) + " (" + cudaGetErrorString(error) +
                        ")";
  if (error == cudaErrorNoKernelImageForDevice) {
    int device = 0;
    cudaDeviceProp properties{};
    if (cudaGetDevice(&device) == cudaSuccess &&
        cudaGetDeviceProperties(&properties, device) == cudaSuccess) {
      message += std::string("; the GPU is ") + properties.name + " with compute capability " +
                 std::to_string(properties.major) + "." + std::to_string(properties.minor);
    }
#ifdef FK_CUDA_ARCHS
    message += "; this module was built for " FK_CUDA_ARCHS;
#endif
    message +=
        "; rebuild it from source with FACEKERNELS_CUDA_ARCHS naming this GPU's architecture";
  }
  throw std::runtime_error(message);
}

// Arguments are converted to the kernel's parameter types. An empty grid launches nothing.
template <class... Params, class... Args>
void launch(const char* kernel_name, dim3 grid, dim3 block, std::size_t smem_bytes,
            cudaStream_t stream, void (*kernel)(Params...), Args&&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  constexpr std::size_t kSharedWithoutOptIn = 48 * 1024;
  if (smem_bytes > kSharedWithoutOptIn) {
    const cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                   static_cast<int>(smem_bytes));
    if (error != cudaSuccess) throw_launch_error(kernel_name, error);
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = smem_bytes;
  config.stream = stream;
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...);
  if (error != cudaSuccess) throw_launch_error(kernel_name, error);
}

}  // namespace facekernels
