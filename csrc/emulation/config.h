// The settings of a launch, read from environment variables FACEKERNELS_EMU_* each time, so that
// one process can run the same kernel under several schedules.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace facekernels::emulation {

// Order in which ready threads, and blocks, run.
enum class Schedule { kForward, kReverse, kRandom };

// When the data of an asynchronous copy moves.
enum class AsyncCopyTime { kAtWait, kAtIssue, kRandom };

struct Config {
  Schedule schedule = Schedule::kForward;             // _SCHEDULE=forward|reverse|random:SEED
  uint64_t seed = 1;                                  //
  AsyncCopyTime async_copy = AsyncCopyTime::kAtWait;  // _ASYNC=lazy|eager|random
  bool strict = true;                                 // _STRICT=0: only what no GPU survives
  size_t workers = 1;                                 // _WORKERS: OS threads that run blocks
  size_t max_shared_bytes = 227 * 1024;               // _MAX_SHARED: static + dynamic, per block
  size_t stack_bytes = 64 * 1024;                     // _STACK: per thread
  size_t watchdog_seconds = 120;                      // _WATCHDOG: 0 turns it off
  size_t max_fresh_threads = 1024;                    // _FRESH_THREADS: see BlockEngine
  size_t fresh_stack_bytes = 16 * 1024;               // _FRESH_STACK: see BlockEngine

  std::string launch_log;  // _LAUNCH_LOG: file, a line per launch

  // Blocks are counted one after another, by one worker.
  bool counts_accesses() const { return !launch_log.empty(); }

  static Config from_environment();
};

}  // namespace facekernels::emulation
