// OS threads that live as long as the process, each with its own engine.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>

namespace facekernels::emulation {

class WorkerPool {
 public:
  static WorkerPool& instance();

  // Calls `work` on the calling thread and on up to `helpers` others, and waits for all of them.
  // Helpers that start late may find nothing left to do. One call at a time.
  void run(size_t helpers, const std::function<void()>& work);

 private:
  void helper_loop();

  std::mutex mutex_;
  std::condition_variable start_;
  std::condition_variable finished_;
  const std::function<void()>* work_ = nullptr;
  uint64_t generation_ = 0;
  size_t threads_ = 0;
  size_t wanted_ = 0;
  size_t started_ = 0;
  size_t running_ = 0;
};

}  // namespace facekernels::emulation
