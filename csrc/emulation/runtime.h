// What the code compiled with a kernel asks of the runtime. The functions are implemented in the
// .cpp files here, which are always compiled without sanitizer flags.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>
#include <stdexcept>
#include <string>

#include "cuda_types.h"

namespace facekernels::emulation {

using SourceLocation = std::source_location;

// A broken rule, described with kernel, block, thread and source line.
struct DeviceError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class Operation : uint8_t {
  // meeting points of a block
  kSyncThreads,
  kSyncThreadsCount,
  kSyncThreadsAnd,
  kSyncThreadsOr,
  // meeting points of the lanes of a mask
  kSyncWarp,
  kShuffle,
  kBallot,
  kAny,
  kAll,
  kMatchAny,
  kMatchAll,
  kReduce,
  // and of whole warps
  kMatrixLoad,
  kMatrixProduct,
};

inline constexpr unsigned kLanes = 32;
inline constexpr unsigned kMaxLaneBytes = 32;

// What one lane hands to a warp function and gets back.
struct LaneData {
  alignas(16) unsigned char input[kMaxLaneBytes];
  alignas(16) unsigned char output[kMaxLaneBytes];
  int source_lane;  // shuffles: the lane read, already resolved
};

// Computes every output at once, when the last lane has arrived; lanes[l] is null for a lane that
// takes no part.
using CombineLanes = void (*)(LaneData* const lanes[kLanes], uint32_t participants,
                              unsigned input_bytes);

struct WarpCall {
  Operation operation;
  uint32_t mask;
  const void* input = nullptr;
  unsigned input_bytes = 0;
  void* output = nullptr;
  unsigned output_bytes = 0;
  CombineLanes combine = nullptr;
  int source_lane = 0;
};

int block_barrier(Operation operation, bool predicate, const SourceLocation& where);
void warp_collective(const WarpCall& call, const SourceLocation& where);
unsigned lane_index();
void yield_thread();
[[noreturn]] void report_error(const std::string& message, const SourceLocation& where);

void* shared_variable(const void* key, size_t bytes, size_t alignment, const char* name,
                      const SourceLocation& where);
void* dynamic_shared_memory();

void copy_async(void* destination, const void* source, size_t bytes, size_t zero_fill,
                const SourceLocation& where);
void commit_async_group();
void wait_async_groups(size_t groups_left_pending);

void run_grid(const char* kernel_name, const void* kernel, dim3 grid, dim3 block, size_t smem_bytes,
              void (*run_thread)(void*), void* argument);

}  // namespace facekernels::emulation

// Last parameter of every built-in that can fail: the line of the kernel that called it.
#define FK_EMU_HERE                                                 \
  const ::facekernels::emulation::SourceLocation& fk_emu_location = \
      ::facekernels::emulation::SourceLocation::current()
