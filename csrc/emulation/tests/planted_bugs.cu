// Kernels with one planted bug each, and correct kernels that look similar. The test runs
//   planted_bugs NAME
// which exits with 0 (right result), 3 (the emulation reported an error, printed) or 4 (wrong
// result), unless a sanitizer ends it. `report: NAME` marks the line that the report must name.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/device.cuh"
#include "core/matrix.cuh"

namespace facekernels {
namespace {

constexpr unsigned kFullMask = 0xffffffffu;
constexpr cudaStream_t kStream = nullptr;

// ------------------------------------------------------------------ barriers and ordering

__device__ void sum_of_tile(float* tile, int n) {
  for (int half = n / 2; half > 0; half /= 2) {
    if (static_cast<int>(threadIdx.x) < half) tile[threadIdx.x] += tile[threadIdx.x + half];
    __syncthreads();
  }
}

__global__ void __launch_bounds__(256) block_sum(const float* x, float* sums) {
  FK_SHARED(float, tile, [256]);
  tile[threadIdx.x] = x[blockIdx.x * blockDim.x + threadIdx.x];
  __syncthreads();
  sum_of_tile(tile, blockDim.x);
  if (threadIdx.x == 0) sums[blockIdx.x] = tile[0];
}

__global__ void __launch_bounds__(256) missing_barrier(const float* x, float* sums) {
  FK_SHARED(float, tile, [256]);
  tile[threadIdx.x] = x[blockIdx.x * blockDim.x + threadIdx.x];  // report: missing_barrier
  sum_of_tile(tile, blockDim.x);
  if (threadIdx.x == 0) sums[blockIdx.x] = tile[0];
}

__global__ void __launch_bounds__(128) warp_synchronous_tail(const float* x, float* sums) {
  FK_SHARED(float, tile, [128]);
  tile[threadIdx.x] = x[blockIdx.x * blockDim.x + threadIdx.x];
  __syncthreads();
  for (int half = 64; half > 0; half /= 2) {
    if (static_cast<int>(threadIdx.x) < half) {
      tile[threadIdx.x] += tile[threadIdx.x + half];  // report: warp_synchronous_tail
    }
    if (half > 32) __syncthreads();
  }
  if (threadIdx.x == 0) sums[blockIdx.x] = tile[0];
}

__global__ void __launch_bounds__(128) divergent_barrier(float* y) {
  if (threadIdx.x < 64) {
    y[threadIdx.x] = 1;
    __syncthreads();
  } else {
    y[threadIdx.x] = 2;
    __syncthreads();  // report: divergent_barrier
  }
}

__global__ void __launch_bounds__(128) exit_before_barrier(float* y, int n) {
  if (static_cast<int>(threadIdx.x) >= n) return;
  y[threadIdx.x] = 1;
  __syncthreads();  // report: exit_before_barrier
}

__global__ void __launch_bounds__(32) warp_reverse(const float* x, float* y) {
  FK_SHARED(float, tile, [32]);
  tile[threadIdx.x] = x[threadIdx.x];
  __syncwarp();
  y[threadIdx.x] = tile[31 - threadIdx.x];
}

__global__ void __launch_bounds__(32) shuffle_as_barrier(const float* x, float* y) {
  FK_SHARED(float, tile, [32]);
  tile[threadIdx.x] = x[threadIdx.x];
  static_cast<void>(__shfl_sync(kFullMask, 1, 0));
  y[threadIdx.x] = tile[31 - threadIdx.x];  // report: shuffle_as_barrier
}

__global__ void __launch_bounds__(32) race_between_blocks(float* total) {
  if (threadIdx.x == 0) total[0] += 1;  // report: race_between_blocks
}

// "Last block done" with a fence and a ticket: correct, and no sanitizer may complain.
__global__ void __launch_bounds__(64)
    last_block_sum(const float* x, float* partial, unsigned* ticket, float* total) {
  FK_SHARED(float, tile, [64]);
  FK_SHARED(bool, is_last, );
  tile[threadIdx.x] = x[blockIdx.x * 64 + threadIdx.x];
  __syncthreads();
  sum_of_tile(tile, 64);
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = tile[0];
    __threadfence();
    is_last = atomicAdd(ticket, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (is_last && threadIdx.x == 0) {
    float sum = 0;
    for (unsigned b = 0; b < gridDim.x; ++b) sum += partial[b];
    total[0] = sum;
  }
}

__global__ void __launch_bounds__(64) histogram(const float* x, unsigned* counts, int n) {
  FK_SHARED(unsigned, local, [16]);
  if (threadIdx.x < 16) local[threadIdx.x] = 0;
  __syncthreads();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    atomicAdd(&local[static_cast<int>(x[i]) & 15], 1u);
  }
  __syncthreads();
  if (threadIdx.x < 16) atomicAdd(&counts[threadIdx.x], local[threadIdx.x]);
}

// ------------------------------------------------------------------------- warp functions

__global__ void __launch_bounds__(64) partial_warp_shuffle(float* sums) {
  float value = static_cast<float>(threadIdx.x);
  for (int offset = 16; offset > 0; offset /= 2) {
    value += __shfl_down_sync(kFullMask, value, offset);  // report: partial_warp_shuffle
  }
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
}

__global__ void __launch_bounds__(64) partial_warp_matrix(float* y) {
  const uint32_t a[4] = {}, b[2] = {};
  float sum[4] = {1, 1, 1, 1};
  multiply_halves(sum, a, b);  // report: partial_warp_matrix
  y[threadIdx.x] = sum[0];
}

__global__ void __launch_bounds__(32) misaligned_matrix(float* y) {
  FK_SHARED(uint4, tile, [33]);
  tile[threadIdx.x] = make_uint4(0, 0, 0, 0);
  __syncwarp();
  uint32_t r[4];
  const char* const row = reinterpret_cast<const char*>(&tile[threadIdx.x]);
  load_matrices(r, row + 8);  // report: misaligned_matrix
  y[threadIdx.x] = static_cast<float>(r[0]);
}

__global__ void __launch_bounds__(32) lane_not_in_mask(float* y) {
  float value = 1;
  if (threadIdx.x < 20) value = __shfl_sync(0x0000ffffu, value, 0);  // report: lane_not_in_mask
  y[threadIdx.x] = value;
}

__global__ void __launch_bounds__(32) divergent_warp_function(float* y) {
  float value = 1;
  if (threadIdx.x < 16) {
    value = __shfl_sync(kFullMask, value, 0);
  } else {
    value = __shfl_sync(kFullMask, value, 1);  // report: divergent_warp_function
  }
  y[threadIdx.x] = value;
}

__global__ void __launch_bounds__(32) deadlock(float* y) {
  float value = 1;
  if (threadIdx.x < 16) {
    value = __shfl_sync(kFullMask, value, 0);  // report: deadlock
  } else {
    __syncthreads();
  }
  y[threadIdx.x] = value;
}

__global__ void __launch_bounds__(32) disjoint_masks(float* y) {
  const int lane = threadIdx.x;
  float value = static_cast<float>(lane);
  if (lane < 16) {
    value = __shfl_xor_sync(0x0000ffffu, value, 15);
  } else {
    value = __shfl_xor_sync(0xffff0000u, value, 15);
  }
  y[lane] = value;
}

__global__ void __launch_bounds__(32) trap(const float* x) {
  if (x[threadIdx.x] > 0) __trap();  // report: trap
}

__global__ void __launch_bounds__(32) endless_spin(unsigned* flag) {
  if (threadIdx.x == 0) {
    while (atomicAdd(flag, 0u) == 0) {
    }
  }
  if (threadIdx.x == 1) atomicExch(flag, 1u);
}

// The same with a yield in the loop: correct.
__global__ void __launch_bounds__(32) polite_spin(unsigned* flag) {
  if (threadIdx.x == 0) {
    while (atomicAdd(flag, 0u) == 0) __nanosleep(100);
  }
  if (threadIdx.x == 1) atomicExch(flag, 1u);
}

__global__ void __launch_bounds__(32) exception(const float* x) {
  if (threadIdx.x == 7) throw std::runtime_error("x is " + std::to_string(x[0]));
}

// ------------------------------------------------------------------------- memory accesses

__global__ void __launch_bounds__(256) out_of_bounds_shared(float* y, int i) {
  FK_SHARED(float, tile, [256]);
  const float* values = tile;
  tile[threadIdx.x] = 1;
  __syncthreads();
  if (threadIdx.x == 3) y[0] = values[i];  // report: out_of_bounds_shared
}

__global__ void __launch_bounds__(256) out_of_bounds_index(float* y, int i) {
  FK_SHARED(float, tile, [256]);
  tile[threadIdx.x] = 1;
  __syncthreads();
  if (threadIdx.x == 3) y[0] = tile[i];  // report: out_of_bounds_index
}

__global__ void __launch_bounds__(64) out_of_bounds_dynamic_shared(float* y, int i) {
  FK_DYN_SHARED(float, values);
  values[threadIdx.x] = 1;
  __syncthreads();
  if (threadIdx.x == 3) values[i] = 2;  // report: out_of_bounds_dynamic_shared
  __syncthreads();
  if (threadIdx.x == 0) y[0] = values[0];
}

__global__ void __launch_bounds__(256) out_of_bounds_global(const float* x, float* y, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i <= n) y[i % n] = x[i];  // report: out_of_bounds_global
}

__global__ void __launch_bounds__(32) misaligned_vector(const float* x, float* y) {
  const float4 v = *reinterpret_cast<const float4*>(x + threadIdx.x);  // report: misaligned_vector
  y[threadIdx.x] = v.w;
}

__global__ void __launch_bounds__(64) uninitialised_shared(float* y) {
  FK_SHARED(float, tile, [64]);
  if (threadIdx.x < 63) tile[threadIdx.x] = 1;
  __syncthreads();
  y[threadIdx.x] = tile[threadIdx.x];  // report: uninitialised_shared
}

struct Box {
  float corners[8];
  int label;
};

// Writes that are not plain stores: a library call and a struct assignment.
__global__ void __launch_bounds__(32) indirect_initialisation(float* y, Box box) {
  FK_SHARED(int, counts, [32]);
  FK_SHARED(Box, boxes, [32]);
  if (threadIdx.x == 0) memset(counts, 0, sizeof(int) * blockDim.x);
  boxes[threadIdx.x] = box;
  __syncthreads();
  const Box copy = boxes[31 - threadIdx.x];
  y[threadIdx.x] = static_cast<float>(counts[threadIdx.x] + copy.label) + copy.corners[7];
}

__global__ void __launch_bounds__(32) too_much_static_shared(float* y) {
  FK_SHARED(float, tile, [13000]);  // report: too_much_static_shared
  tile[threadIdx.x] = 1;
  y[threadIdx.x] = tile[threadIdx.x];
}

__device__ int sum_down(int n, const int* values) {  // report: stack_overflow
  volatile int frame[256];
  frame[n & 255] = n;
  return n > 0 ? sum_down(n - 1, values) + frame[n & 255] : *values;
}

__global__ void __launch_bounds__(32) stack_overflow(int* y, int depth) {
  *y = sum_down(depth, y);
}

// -------------------------------------------------------------------- asynchronous copies

// Double buffering: the next tile is copied while the current one is summed; past the end, zeros.
template <bool kBarrierAfterUse>
__device__ void sum_of_tiles(const float* x, float* y, int tiles) {
  FK_SHARED(float4, stages, [2][32]);
  const auto load = [&](int tile) {
    const size_t zero_fill = tile < tiles ? 0 : sizeof(float4);
    const float* source = x + (tile < tiles ? tile : 0) * 128;
    __pipeline_memcpy_async(&stages[tile % 2][threadIdx.x], source + threadIdx.x * 4,
                            sizeof(float4), zero_fill);
    __pipeline_commit();
  };
  float sum = 0;
  load(0);
  for (int tile = 0; tile <= tiles; ++tile) {
    load(tile + 1);
    __pipeline_wait_prior(1);
    __syncthreads();
    const float4 v = stages[tile % 2][31 - threadIdx.x];  // report: missing_barrier_in_pipeline
    sum += v.x + v.y + v.z + v.w;
    if (kBarrierAfterUse) __syncthreads();
  }
  __pipeline_wait_prior(0);
  y[blockIdx.x * 32 + threadIdx.x] = sum;
}

__global__ void __launch_bounds__(32) pipelined_sum(const float* x, float* y, int tiles) {
  sum_of_tiles<true>(x, y, tiles);
}

__global__ void __launch_bounds__(32)
    missing_barrier_in_pipeline(const float* x, float* y, int tiles) {
  sum_of_tiles<false>(x, y, tiles);
}

__global__ void __launch_bounds__(32) copy_read_before_wait(const float* x, float* y) {
  FK_SHARED(float, tile, [32]);
  __pipeline_memcpy_async(&tile[threadIdx.x], x + threadIdx.x, sizeof(float));
  __pipeline_commit();
  __syncthreads();
  y[threadIdx.x] = tile[31 - threadIdx.x];  // report: copy_read_before_wait
  __pipeline_wait_prior(0);
}

__global__ void __launch_bounds__(32) copy_never_waited(const float* x) {
  FK_SHARED(float, tile, [32]);
  float* mine = &tile[threadIdx.x];
  __pipeline_memcpy_async(mine, x + threadIdx.x, sizeof(float));  // report: copy_never_waited
  __pipeline_commit();
}

// One asynchronous copy of one thread, with arguments to get wrong.
template <int kOffset>
__device__ void copy_floats(const float* x, float* y, int n) {
  FK_SHARED(float, tile, [64]);
  __pipeline_memcpy_async(tile + kOffset, x, n * sizeof(float));  // report: copy
  __pipeline_commit();
  __pipeline_wait_prior(0);
  y[0] = tile[kOffset];
}

__global__ void __launch_bounds__(1) copy_misaligned(const float* x, float* y) {
  copy_floats<1>(x, y, 2);
}
__global__ void __launch_bounds__(1) copy_of_bad_size(const float* x, float* y) {
  copy_floats<0>(x, y, 3);
}
__global__ void __launch_bounds__(1) copy_out_of_bounds(const float* x, float* y) {
  copy_floats<0>(x + 1024, y, 1);
}

__global__ void __launch_bounds__(1) copy_to_global(const float* x, float* y) {
  __pipeline_memcpy_async(y, x, sizeof(float));  // report: copy_to_global
}

// ---------------------------------------------------------------------------------- driver

struct Data {
  std::vector<float> x = std::vector<float>(1024, 1.0f);
  std::vector<float> y = std::vector<float>(1024, 0.0f);
  std::vector<unsigned> counts = std::vector<unsigned>(16, 0u);
  std::vector<int> integers = std::vector<int>(4, 0);

  bool y_is(int n, float value) const {
    return std::all_of(y.begin(), y.begin() + n, [value](float v) { return v == value; });
  }
};

struct Case {
  const char* name;
  bool (*run)(Data&);  // launches, and says whether the result is right
};

const Case kCases[] = {
    {"block_sum",
     [](Data& d) {
       launch("block_sum", 4, 256, 0, kStream, block_sum, d.x.data(), d.y.data());
       return d.y_is(4, 256);
     }},
    {"missing_barrier",
     [](Data& d) {
       launch("missing_barrier", 4, 256, 0, kStream, missing_barrier, d.x.data(), d.y.data());
       return d.y_is(4, 256);
     }},
    {"warp_synchronous_tail",
     [](Data& d) {
       launch("warp_synchronous_tail", 4, 128, 0, kStream, warp_synchronous_tail, d.x.data(),
              d.y.data());
       return d.y_is(4, 128);
     }},
    {"divergent_barrier",
     [](Data& d) {
       launch("divergent_barrier", 1, 128, 0, kStream, divergent_barrier, d.y.data());
       return true;
     }},
    {"exit_before_barrier",
     [](Data& d) {
       launch("exit_before_barrier", 1, 128, 0, kStream, exit_before_barrier, d.y.data(), 100);
       return true;
     }},
    {"warp_reverse",
     [](Data& d) {
       launch("warp_reverse", 1, 32, 0, kStream, warp_reverse, d.x.data(), d.y.data());
       return d.y_is(32, 1);
     }},
    {"shuffle_as_barrier",
     [](Data& d) {
       launch("shuffle_as_barrier", 1, 32, 0, kStream, shuffle_as_barrier, d.x.data(), d.y.data());
       return d.y_is(32, 1);
     }},
    {"race_between_blocks",
     [](Data& d) {
       launch("race_between_blocks", 4, 32, 0, kStream, race_between_blocks, d.y.data());
       return d.y_is(1, 4);
     }},
    {"last_block_sum",
     [](Data& d) {
       launch("last_block_sum", 8, 64, 0, kStream, last_block_sum, d.x.data(), d.y.data() + 1,
              d.counts.data(), d.y.data());
       return d.y_is(1, 512);
     }},
    {"histogram",
     [](Data& d) {
       launch("histogram", 4, 64, 0, kStream, histogram, d.x.data(), d.counts.data(), 1000);
       return d.counts[0] == 0 && d.counts[1] == 1000;
     }},
    {"partial_warp_shuffle",
     [](Data& d) {
       launch("partial_warp_shuffle", 1, 48, 0, kStream, partial_warp_shuffle, d.y.data());
       return true;
     }},
    {"partial_warp_matrix",
     [](Data& d) {
       launch("partial_warp_matrix", 1, 48, 0, kStream, partial_warp_matrix, d.y.data());
       return true;
     }},
    {"misaligned_matrix",
     [](Data& d) {
       launch("misaligned_matrix", 1, 32, 0, kStream, misaligned_matrix, d.y.data());
       return true;
     }},
    {"lane_not_in_mask",
     [](Data& d) {
       launch("lane_not_in_mask", 1, 32, 0, kStream, lane_not_in_mask, d.y.data());
       return true;
     }},
    {"divergent_warp_function",
     [](Data& d) {
       launch("divergent_warp_function", 1, 32, 0, kStream, divergent_warp_function, d.y.data());
       return true;
     }},
    {"deadlock",
     [](Data& d) {
       launch("deadlock", 1, 32, 0, kStream, deadlock, d.y.data());
       return true;
     }},
    {"disjoint_masks",
     [](Data& d) {
       launch("disjoint_masks", 1, 32, 0, kStream, disjoint_masks, d.y.data());
       return d.y[0] == 15 && d.y[15] == 0 && d.y[16] == 31 && d.y[31] == 16;
     }},
    {"trap",
     [](Data& d) {
       launch("trap", 1, 32, 0, kStream, trap, d.x.data());
       return true;
     }},
    {"endless_spin",
     [](Data& d) {
       launch("endless_spin", 1, 32, 0, kStream, endless_spin, d.counts.data());
       return true;
     }},
    {"polite_spin",
     [](Data& d) {
       launch("polite_spin", 1, 32, 0, kStream, polite_spin, d.counts.data());
       return d.counts[0] == 1;
     }},
    {"exception",
     [](Data& d) {
       launch("exception", 1, 32, 0, kStream, exception, d.x.data());
       return true;
     }},
    {"out_of_bounds_shared",
     [](Data& d) {
       launch("out_of_bounds_shared", 1, 256, 0, kStream, out_of_bounds_shared, d.y.data(), 256);
       return true;
     }},
    {"out_of_bounds_index",
     [](Data& d) {
       launch("out_of_bounds_index", 1, 256, 0, kStream, out_of_bounds_index, d.y.data(), 256);
       return true;
     }},
    {"out_of_bounds_dynamic_shared",
     [](Data& d) {
       launch("out_of_bounds_dynamic_shared", 1, 64, 64 * sizeof(float), kStream,
              out_of_bounds_dynamic_shared, d.y.data(), 64);
       return true;
     }},
    {"out_of_bounds_global",
     [](Data& d) {
       launch("out_of_bounds_global", 5, 256, 0, kStream, out_of_bounds_global, d.x.data(),
              d.y.data(), 1024);
       return true;
     }},
    {"misaligned_vector",
     [](Data& d) {
       launch("misaligned_vector", 1, 32, 0, kStream, misaligned_vector, d.x.data(), d.y.data());
       return true;
     }},
    {"uninitialised_shared",
     [](Data& d) {
       launch("uninitialised_shared", 1, 64, 0, kStream, uninitialised_shared, d.y.data());
       return d.y_is(64, 1);
     }},
    {"indirect_initialisation",
     [](Data& d) {
       const Box box{{1, 2, 3, 4, 5, 6, 7, 8}, 2};
       launch("indirect_initialisation", 1, 32, 0, kStream, indirect_initialisation, d.y.data(),
              box);
       return d.y_is(32, 10);
     }},
    {"too_much_static_shared",
     [](Data& d) {
       launch("too_much_static_shared", 1, 32, 0, kStream, too_much_static_shared, d.y.data());
       return true;
     }},
    {"too_much_dynamic_shared",
     [](Data& d) {
       launch("too_much_dynamic_shared", 1, 64, 300 * 1024, kStream, out_of_bounds_dynamic_shared,
              d.y.data(), 0);
       return true;
     }},
    {"block_too_large",
     [](Data& d) {
       launch("block_too_large", 1, 2048, 0, kStream, uninitialised_shared, d.y.data());
       return true;
     }},
    {"empty_grid",
     [](Data& d) {
       launch("empty_grid", dim3(3, 0, 1), 64, 0, kStream, trap, d.x.data());
       return true;
     }},
    {"stack_overflow",
     [](Data& d) {
       launch("stack_overflow", 1, 2, 0, kStream, stack_overflow, d.integers.data(), 2000);
       return true;
     }},
    {"pipelined_sum",
     [](Data& d) {
       launch("pipelined_sum", 2, 32, 0, kStream, pipelined_sum, d.x.data(), d.y.data(), 5);
       return d.y_is(64, 20);
     }},
    {"missing_barrier_in_pipeline",
     [](Data& d) {
       launch("missing_barrier_in_pipeline", 1, 32, 0, kStream, missing_barrier_in_pipeline,
              d.x.data(), d.y.data(), 5);
       return d.y_is(32, 20);
     }},
    {"copy_read_before_wait",
     [](Data& d) {
       launch("copy_read_before_wait", 1, 32, 0, kStream, copy_read_before_wait, d.x.data(),
              d.y.data());
       return d.y_is(32, 1);
     }},
    {"copy_never_waited",
     [](Data& d) {
       launch("copy_never_waited", 1, 32, 0, kStream, copy_never_waited, d.x.data());
       return true;
     }},
    {"copy_misaligned",
     [](Data& d) {
       launch("copy_misaligned", 1, 1, 0, kStream, copy_misaligned, d.x.data(), d.y.data());
       return true;
     }},
    {"copy_of_bad_size",
     [](Data& d) {
       launch("copy_of_bad_size", 1, 1, 0, kStream, copy_of_bad_size, d.x.data(), d.y.data());
       return true;
     }},
    {"copy_to_global",
     [](Data& d) {
       launch("copy_to_global", 1, 1, 0, kStream, copy_to_global, d.x.data(), d.y.data());
       return true;
     }},
    {"copy_out_of_bounds",
     [](Data& d) {
       launch("copy_out_of_bounds", 1, 1, 0, kStream, copy_out_of_bounds, d.x.data(), d.y.data());
       return true;
     }},
};

int run(const std::string& name) {
  for (const Case& candidate : kCases) {
    if (candidate.name != name) continue;
    Data data;
    try {
      const bool right = candidate.run(data);
      std::puts(right ? "right result" : "wrong result");
      return right ? 0 : 4;
    } catch (const std::exception& error) {
      std::printf("error: %s\n", error.what());
      return 3;
    }
  }
  std::printf("no case is called %s\n", name.c_str());
  return 2;
}

}  // namespace
}  // namespace facekernels

int main(int argc, char** argv) {
  return facekernels::run(argc > 1 ? argv[1] : "");
}
