// One CUDA thread: its stack, and what it is doing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime.h"

namespace facekernels::emulation {

// A stack with an unmapped guard page below it.
class FiberStack {
 public:
  FiberStack() = default;
  ~FiberStack();
  FiberStack(const FiberStack&) = delete;
  FiberStack& operator=(const FiberStack&) = delete;

  // `index` shifts the top by a few cache lines. Stacks that all begin at the same offset of a
  // page would put every thread's busiest frame into the same cache sets.
  void allocate(size_t bytes, uint32_t index);

  // Makes ThreadSanitizer forget the top `bytes`: a new thread must not inherit the old accesses.
  void forget_top(size_t bytes);

  const void* bottom() const { return bottom_; }
  size_t bytes() const { return bytes_; }
  void* top() const { return bottom_ + bytes_ - shift_; }

 private:
  char* map_ = nullptr;
  size_t map_bytes_ = 0;
  char* bottom_ = nullptr;
  size_t bytes_ = 0;
  size_t shift_ = 0;
};

enum class ThreadState : uint8_t { kReady, kAtBarrier, kInWarpCall, kExited };

// A cp.async that has not been waited for.
struct PendingCopy {
  void* destination;
  const void* source;
  size_t bytes;
  size_t zero_fill;  // of `bytes`, how many at the end are zeros instead of data
  size_t group;
  bool moved;
  SourceLocation where;
};

struct Fiber {
  FiberStack stack;
  void* stack_pointer = nullptr;  // where to continue; valid while the fiber does not run
  void* asan_fake_stack = nullptr;
  void* tsan_fiber = nullptr;

  uint3 thread_index{};
  uint32_t linear_index = 0;
  uint32_t warp = 0;
  uint32_t lane = 0;

  ThreadState state = ThreadState::kExited;
  // the barrier or warp function that it waits in
  Operation operation{};
  SourceLocation where{};
  bool predicate = false;
  int barrier_result = 0;
  uint32_t mask = 0;
  LaneData lane_data;

  size_t copy_group = 0;  // the group that the next asynchronous copy joins
  std::vector<PendingCopy> copies;
};

}  // namespace facekernels::emulation
