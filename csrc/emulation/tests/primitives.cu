// Every warp primitive and a few built-ins, with their results written out: the test compares them
// with an independent model. Compiles under nvcc too, so that a GPU can be asked the same.
#include "core/device.cuh"
#include "core/matrix.cuh"

namespace facekernels {
namespace {

constexpr unsigned kFullMask = 0xffffffffu;

// results: [kWarpResults, threads of the grid]
constexpr int kWarpResults = 21;

__global__ void __launch_bounds__(1024)
    warp_primitives(const int* values, int* results, int width, int argument) {
  const int thread = blockIdx.x * blockDim.x + threadIdx.x;
  const int threads = gridDim.x * blockDim.x;
  const int lane = threadIdx.x % warpSize;
  const int value = values[thread];
  int* result = results + thread;
  const auto emit = [&](int x) {
    *result = x;
    result += threads;
  };
  emit(__shfl_sync(kFullMask, value, argument, width));
  emit(__shfl_up_sync(kFullMask, value, argument, width));
  emit(__shfl_down_sync(kFullMask, value, argument, width));
  emit(__shfl_xor_sync(kFullMask, value, argument, width));
  emit(static_cast<int>(__ballot_sync(kFullMask, value & 1)));
  emit(__any_sync(kFullMask, value == 7));
  emit(__all_sync(kFullMask, value < 90));
  emit(static_cast<int>(__match_any_sync(kFullMask, value)));
  int all_equal = 0;
  emit(static_cast<int>(__match_all_sync(kFullMask, value, &all_equal)));
  emit(all_equal);
  emit(static_cast<int>(__match_all_sync(kFullMask, 5, &all_equal)));
  emit(all_equal);
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  emit(__reduce_add_sync(kFullMask, value));
  emit(__reduce_min_sync(kFullMask, -value));
  emit(__reduce_max_sync(kFullMask, value));
  emit(static_cast<int>(__reduce_and_sync(kFullMask, static_cast<unsigned>(value))));
  emit(static_cast<int>(__reduce_or_sync(kFullMask, static_cast<unsigned>(value))));
  emit(static_cast<int>(__reduce_xor_sync(kFullMask, static_cast<unsigned>(value))));
#else
  result += 6 * threads;  // no __reduce_*_sync before sm_80
#endif
  // Two halves of a warp in different branches: their masks are disjoint.
  if (lane < 16) {
    emit(__shfl_xor_sync(0x0000ffffu, value, 5));
  } else {
    emit(__shfl_xor_sync(0xffff0000u, value, 3));
  }
  emit(__syncthreads_count(value & 1));
  emit(2 * __syncthreads_and(value < 1000) + __syncthreads_or(value == -1));
}

// counts[0..9]: what each atomic leaves behind after every thread has applied it once.
__global__ void __launch_bounds__(128) atomics(int* counts, float* sums, __half* half_sum) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  atomicAdd(&counts[0], i);
  atomicSub(&counts[1], 1);
  atomicMax(&counts[2], i);
  atomicMin(&counts[3], -i);
  atomicOr(&counts[4], 1 << (i % 31));
  atomicAnd(&counts[5], ~(1 << (i % 31)));
  atomicXor(&counts[6], i);
  atomicInc(reinterpret_cast<unsigned*>(&counts[7]), 9u);
  atomicCAS(&counts[8], i, i + 1);
  atomicExch(&counts[9], 3);
  atomicAdd(&sums[0], 0.5f);
  atomicAdd(half_sum, __float2half(0.25f));
}

// Asynchronous copies in groups, waited for with one group still pending, zeros past the end.
__global__ void __launch_bounds__(64) copy_tiles(const float* x, float* y, int n) {
  FK_SHARED(float, stages, [2][64]);
  const int tiles = (n + 63) / 64;
  const auto load = [&](int tile) {
    const int i = tile * 64 + threadIdx.x;
    const bool inside = i < n;
    __pipeline_memcpy_async(&stages[tile % 2][threadIdx.x], x + (inside ? i : 0), sizeof(float),
                            inside ? 0 : sizeof(float));
    __pipeline_commit();
  };
  load(0);
  for (int tile = 0; tile < tiles; ++tile) {
    load(tile + 1);
    __pipeline_wait_prior(1);
    __syncthreads();
    y[tile * 64 + threadIdx.x] = stages[tile % 2][63 - threadIdx.x];
    __syncthreads();
  }
  __pipeline_wait_prior(0);
}

// sums [16, 8] += a [16, 16] b [8, 16]^T of halves, 16-byte pieces of rows; loaded: what
// load_matrices gave each lane for a, then for b.
__global__ void __launch_bounds__(32)
    matrix_product(const uint4* a, const uint4* b, float* sums, uint32_t* loaded) {
  FK_SHARED(uint4, rows, [16 + 8][2]);
  const int lane = threadIdx.x;
  rows[lane / 2][lane % 2] = a[lane];
  if (lane < 16) rows[16 + lane / 2][lane % 2] = b[lane];
  __syncthreads();
  uint32_t left[4], right[4];
  load_matrices(left, &rows[lane % 16][lane / 16]);
  load_matrices(right, &rows[16 + lane % 8][lane / 8 % 2]);  // twice
  for (int i = 0; i < 4; ++i) {
    loaded[4 * lane + i] = left[i];
    loaded[128 + 4 * lane + i] = right[i];
  }
  float* const sum = sums + lane / 4 * 8 + lane % 4 * 2;
  float mine[4] = {sum[0], sum[1], sum[64], sum[65]};
  const uint32_t columns[2] = {right[2], right[3]};
  multiply_halves(mine, left, columns);
  sum[0] = mine[0], sum[1] = mine[1], sum[64] = mine[2], sum[65] = mine[3];
}

// Two instantiations have separate arrays; a scalar and dynamic memory beside them.
template <int kId>
__device__ int exchange(int value) {
  FK_SHARED(int, cell, [32]);
  if (kId == 0 || threadIdx.x < 16) cell[threadIdx.x] = value;
  __syncthreads();
  return cell[(threadIdx.x + 1) % 16];
}

__global__ void __launch_bounds__(32) shared_memory_forms(int* y) {
  FK_SHARED(int, scalar, );
  FK_DYN_SHARED(int, dynamic);
  if (threadIdx.x == 0) scalar = 1000 * (blockIdx.y + 1);
  dynamic[threadIdx.x] = threadIdx.x;
  const int a = exchange<0>(threadIdx.x);
  const int b = exchange<1>(100 * threadIdx.x);
  y[blockIdx.y * 32 + threadIdx.x] = scalar + a + b + dynamic[31 - threadIdx.x];
}

}  // namespace

extern "C" void run_warp_primitives(const int* values, int* results, int blocks, int threads,
                                    int width, int argument) {
  launch("warp_primitives", blocks, threads, 0, nullptr, warp_primitives, values, results, width,
         argument);
}

extern "C" int warp_primitives_results() {
  return kWarpResults;
}

extern "C" void run_atomics(int* counts, float* sums, void* half_sum, int blocks) {
  launch("atomics", blocks, 128, 0, nullptr, atomics, counts, sums, static_cast<__half*>(half_sum));
}

extern "C" void run_copy_tiles(const float* x, float* y, int n) {
  launch("copy_tiles", 1, 64, 0, nullptr, copy_tiles, x, y, n);
}

extern "C" void run_matrix_product(const void* a, const void* b, float* sums, uint32_t* loaded) {
  launch("matrix_product", 1, 32, 0, nullptr, matrix_product, static_cast<const uint4*>(a),
         static_cast<const uint4*>(b), sums, loaded);
}

extern "C" void run_shared_memory_forms(int* y) {
  launch("shared_memory_forms", dim3(1, 3), 32, 32 * sizeof(int), nullptr, shared_memory_forms, y);
}

}  // namespace facekernels
