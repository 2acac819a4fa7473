// Kernels whose accesses are known: the test compares them with what the counter says.
#include "core/device.cuh"

namespace facekernels {
namespace {

// Two blocks of two warps; every thread copies 16 bytes.
__global__ void __launch_bounds__(64) copy16(const float4* x, float4* y) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  y[i] = x[i];
}

// One warp; neighbouring lanes read `stride` floats apart, and write one after the other.
__global__ void __launch_bounds__(32) strided(const float* x, float* y, int stride) {
  y[threadIdx.x] = x[threadIdx.x * stride];
}

// Every block reads the same 32 floats twice.
__global__ void __launch_bounds__(32) reread(const float* x, float* y) {
  float sum = 0.0f;
  for (int i = 0; i < 2; ++i) sum += x[threadIdx.x];
  y[blockIdx.x * 32 + threadIdx.x] = sum;
}

// One warp writes a row of shared memory, meets, and reads it `stride` words apart.
__global__ void __launch_bounds__(32) banks(float* y, int stride) {
  FK_SHARED(float, tile, [1024]);
  for (int i = threadIdx.x; i < 1024; i += 32) tile[i] = static_cast<float>(i);
  __syncthreads();
  y[threadIdx.x] = tile[threadIdx.x * stride];
}

}  // namespace
}  // namespace facekernels

using facekernels::launch;

extern "C" {
void run_copy16(const void* x, void* y) {
  launch("copy16", dim3(2), dim3(64), 0, nullptr, facekernels::copy16,
         static_cast<const float4*>(x), static_cast<float4*>(y));
}
void run_strided(const void* x, void* y, int stride) {
  launch("strided", dim3(1), dim3(32), 0, nullptr, facekernels::strided,
         static_cast<const float*>(x), static_cast<float*>(y), stride);
}
void run_reread(const void* x, void* y, int blocks) {
  launch("reread", dim3(blocks), dim3(32), 0, nullptr, facekernels::reread,
         static_cast<const float*>(x), static_cast<float*>(y));
}
void run_banks(void* y, int stride) {
  launch("banks", dim3(1), dim3(32), 0, nullptr, facekernels::banks, static_cast<float*>(y),
         stride);
}
}
