// Checks a launch as CUDA does and hands its blocks to the workers.
#include "launch.h"

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <fstream>
#include <memory>
#include <mutex>
#include <numeric>

#include "block_engine.h"
#include "sanitizer_reports.h"
#include "watchdog.h"
#include "worker_pool.h"

namespace facekernels::emulation {
namespace {

std::string size_text(dim3 size) {
  return "(" + std::to_string(size.x) + "," + std::to_string(size.y) + "," +
         std::to_string(size.z) + ")";
}

void check_limits(const Launch& launch) {
  const auto reject = [&](const std::string& reason) {
    throw DeviceError(std::string("launch of ") + launch.kernel_name + ": " + reason);
  };
  const dim3 block = launch.block;
  const dim3 grid = launch.grid;
  if (launch.threads_per_block() == 0) reject("the block " + size_text(block) + " is empty");
  if (launch.threads_per_block() > 1024 || block.x > 1024 || block.y > 1024 || block.z > 64) {
    reject("the block " + size_text(block) +
           " is too large: at most 1024 threads, and (1024,1024,64)");
  }
  if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    reject("the grid " + size_text(grid) + " is too large: at most (2147483647,65535,65535)");
  }
  if (launch.dynamic_shared_bytes > launch.config.max_shared_bytes) {
    reject(std::to_string(launch.dynamic_shared_bytes) +
           " bytes of dynamic shared memory, at most " +
           std::to_string(launch.config.max_shared_bytes) + " are allowed");
  }
}

// The order in which the blocks of a grid start.
class BlockOrder {
 public:
  BlockOrder(const Config& config, uint64_t blocks) : schedule_(config.schedule), blocks_(blocks) {
    if (schedule_ != Schedule::kRandom) return;
    RandomNumbers random;
    random.seed(config.seed);
    first_ = random.next() % blocks_;
    do {
      stride_ = random.next() % blocks_ + 1;
    } while (std::gcd(stride_, blocks_) != 1);
  }

  // A stride without a common factor visits every block once.
  uint64_t at(uint64_t position) const {
    switch (schedule_) {
      case Schedule::kForward: return position;
      case Schedule::kReverse: return blocks_ - 1 - position;
      case Schedule::kRandom: break;
    }
    return static_cast<uint64_t>((first_ + static_cast<unsigned __int128>(position) * stride_) %
                                 blocks_);
  }

 private:
  Schedule schedule_;
  uint64_t blocks_;
  uint64_t first_ = 0;
  uint64_t stride_ = 1;
};

class Grid {
 public:
  explicit Grid(const Launch& launch) : launch_(launch), order_(launch.config, launch.blocks()) {}

  // Runs blocks until none is left or one has failed. Called by every worker.
  void run_blocks() {
    static thread_local std::unique_ptr<BlockEngine> engine = std::make_unique<BlockEngine>();
    try {
      engine->begin_launch(launch_);
      const WatchdogScope watchdog(*engine);
      while (!failed_) {
        const uint64_t position = next_++;
        if (position >= launch_.blocks()) break;
        engine->run_block(order_.at(position));
      }
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!failed_) error_ = std::current_exception();
      failed_ = true;
    }
    if (launch_.config.counts_accesses()) {  // then this is the only worker
      counts_ = "\"static_shared\": " + std::to_string(engine->static_shared_bytes()) + ", " +
                engine->accesses().json();
    }
    engine->end_launch();
  }

  void rethrow_error() const {
    if (error_) std::rethrow_exception(error_);
  }

  const std::string& counts() const { return counts_; }

 private:
  const Launch& launch_;
  BlockOrder order_;
  std::atomic<uint64_t> next_{0};
  std::atomic<bool> failed_{false};
  std::mutex mutex_;
  std::exception_ptr error_;
  std::string counts_;
};

// A line of JSON. `symbol` is the kernel's place in its module, for the module's symbol table.
void log_launch(const Launch& launch, const std::string& counts) {
  Dl_info module{};
  dladdr(launch.kernel, &module);
  const auto list = [](dim3 size) {
    return "[" + std::to_string(size.x) + ", " + std::to_string(size.y) + ", " +
           std::to_string(size.z) + "]";
  };
  std::ofstream(launch.config.launch_log, std::ios::app)
      << "{\"kernel\": \"" << launch.kernel_name << "\", \"symbol\": "
      << static_cast<const char*>(launch.kernel) - static_cast<const char*>(module.dli_fbase)
      << ", \"grid\": " << list(launch.grid) << ", \"block\": " << list(launch.block)
      << ", \"dynamic_shared\": " << launch.dynamic_shared_bytes << ", " << counts << "}\n";
}

}  // namespace

void run_grid(const char* kernel_name, const void* kernel, dim3 grid, dim3 block, size_t smem_bytes,
              void (*run_thread)(void*), void* argument) {
  const Launch launch{kernel_name, kernel,     grid,     block,
                      smem_bytes,  run_thread, argument, Config::from_environment()};
  if (launch.blocks() == 0) return;
  check_limits(launch);
  name_thread_in_sanitizer_reports();

  static std::mutex one_launch_at_a_time;
  const std::lock_guard lock(one_launch_at_a_time);
  Grid work(launch);
  const uint64_t workers = std::min<uint64_t>(launch.config.workers, launch.blocks());
  if (workers > 1) {
    WorkerPool::instance().run(workers - 1, [&work] { work.run_blocks(); });
  } else {
    work.run_blocks();
  }
  work.rethrow_error();
  if (launch.config.counts_accesses()) log_launch(launch, work.counts());
}

}  // namespace facekernels::emulation
