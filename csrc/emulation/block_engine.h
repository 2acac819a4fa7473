// Runs the blocks of a launch one after another on one OS thread, each CUDA thread as a fiber.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "access_counter.h"
#include "config.h"
#include "fiber.h"
#include "ready_queue.h"
#include "shared_arena.h"
#include "warp.h"

namespace facekernels::emulation {

struct Launch {
  const char* kernel_name;
  const void* kernel;
  dim3 grid;
  dim3 block;
  size_t dynamic_shared_bytes;
  void (*run_thread)(void*);
  void* argument;
  Config config;

  uint64_t blocks() const { return uint64_t{grid.x} * grid.y * grid.z; }
  uint64_t threads_per_block() const { return uint64_t{block.x} * block.y * block.z; }
};

// A fiber never changes its OS thread: a parked frame may hold the address of a thread_local. So
// each OS thread owns one engine for good.
//
// A thread runs until it waits (barrier, warp function) or returns; then the next ready one is
// switched to directly. When none is ready, control returns to run_block: the block has finished,
// or it is deadlocked.
class BlockEngine {
 public:
  BlockEngine() = default;
  ~BlockEngine();
  BlockEngine(const BlockEngine&) = delete;
  BlockEngine& operator=(const BlockEngine&) = delete;

  // The engine whose block the calling OS thread runs. Throws outside a kernel.
  static BlockEngine& current();
  static BlockEngine* current_or_null();

  void begin_launch(const Launch& launch);
  void run_block(uint64_t block);  // linear index; throws DeviceError
  void end_launch();

  // What a running thread asks for.
  int wait_at_barrier(Operation operation, bool predicate, const SourceLocation& where);
  void meet_lanes(const WarpCall& call, const SourceLocation& where);
  void yield();

  // An access of the running thread. Those to its own stack are registers on a GPU.
  void count_access(const void* address, size_t bytes, bool is_write, const void* site);

  // Ends the launch with an error that names `culprit`. Does not return to the calling fiber,
  // whose destructors never run.
  [[noreturn]] void fail(const Fiber& culprit, const std::string& message);
  [[noreturn]] void fail(const std::string& message) { fail(*running_, message); }

  const Launch& launch() const { return *launch_; }
  const Config& config() const { return launch_->config; }
  Fiber* running() const { return running_; }
  SharedArena& shared() { return shared_; }
  const AccessCounter& accesses() const { return accesses_; }
  size_t& static_shared_bytes() { return static_shared_bytes_; }
  RandomNumbers& random() { return random_; }
  uint64_t switches() const { return switches_.load(std::memory_order_relaxed); }

  std::string describe_thread(const Fiber& fiber) const;
  std::string describe_all_threads() const;  // who waits where

 private:
  static void fiber_main();

  void create_fibers(uint32_t count);
  void destroy_fibers();
  void renew_fibers();
  void set_thread_indices();
  void name_fiber(const Fiber& fiber);
  void start_block(uint64_t block);
  void order_abandoned_threads();

  void switch_to(Fiber* target);  // null: back to run_block
  Fiber* next_ready();
  void run_next();
  template <class Predicate>
  void make_ready(uint32_t first, uint32_t count, Predicate belongs);

  void exit_thread(Fiber& fiber);
  void release_barrier_if_complete();
  void check_barrier(const Fiber& first);
  void complete_warp_calls(Warp& warp, uint32_t warp_index);
  void finish_warp_call(const PendingWarpCall& call, uint32_t warp_index);
  void check_shuffle_sources(const PendingWarpCall& call, LaneData* const lanes[kLanes],
                             uint32_t warp_index);
  PendingWarpCall& join_warp_call(Warp& warp, const WarpCall& call, const SourceLocation& where);
  std::string describe_state(const Fiber& fiber) const;

  const Launch* launch_ = nullptr;
  std::vector<Fiber> fibers_;
  size_t fiber_stack_bytes_ = 0;
  std::vector<Warp> warps_;
  ReadyQueue ready_;
  RandomNumbers random_;
  SharedArena shared_;
  AccessCounter accesses_;
  size_t static_shared_bytes_ = 0;

  uint3 block_index_{};
  uint32_t thread_count_ = 0;
  uint32_t alive_ = 0;
  uint32_t at_barrier_ = 0;
  unsigned barrier_phase_ = 0;
  std::string error_;
  std::atomic<uint64_t> switches_{0};  // the watchdog looks at it

  Fiber* running_ = nullptr;
  // the OS thread's own stack
  void* main_stack_pointer_ = nullptr;
  const void* main_stack_bottom_ = nullptr;
  size_t main_stack_bytes_ = 0;
  void* main_asan_fake_stack_ = nullptr;
  void* main_tsan_fiber_ = nullptr;

  // Addresses that stand for happens-before edges in ThreadSanitizer.
  char block_start_edge_ = 0;
  char block_end_edge_ = 0;
  char barrier_edges_[2] = {};  // consecutive barriers alternate
};

// Queues the threads of [first, first + count) that `belongs` accepts, in the schedule's order.
template <class Predicate>
void BlockEngine::make_ready(uint32_t first, uint32_t count, Predicate belongs) {
  const bool reverse = config().schedule == Schedule::kReverse;
  for (uint32_t i = 0; i < count; ++i) {
    Fiber& fiber = fibers_[first + (reverse ? count - 1 - i : i)];
    if (!belongs(fiber)) continue;
    fiber.state = ThreadState::kReady;
    ready_.push(fiber.linear_index);
  }
}

// Text for error messages.
const char* operation_name(Operation operation);
std::string location_text(const SourceLocation& where);  // "file.cu:12"
std::string mask_text(uint32_t mask);                    // "0x0000ffff"
bool same_place(const SourceLocation& a, const SourceLocation& b);

}  // namespace facekernels::emulation
