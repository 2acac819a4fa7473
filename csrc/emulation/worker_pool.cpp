#include "worker_pool.h"

#include <thread>

namespace facekernels::emulation {

WorkerPool& WorkerPool::instance() {
  static WorkerPool* pool = new WorkerPool;  // never destroyed: its threads outlive main
  return *pool;
}

void WorkerPool::helper_loop() {
  std::unique_lock lock(mutex_);
  uint64_t last_generation = 0;
  for (;;) {
    start_.wait(lock, [&] { return generation_ != last_generation && started_ < wanted_; });
    last_generation = generation_;
    ++started_;
    ++running_;
    const std::function<void()>& work = *work_;
    lock.unlock();
    work();
    lock.lock();
    if (--running_ == 0) finished_.notify_all();
  }
}

void WorkerPool::run(size_t helpers, const std::function<void()>& work) {
  {
    const std::lock_guard lock(mutex_);
    for (; threads_ < helpers; ++threads_) std::thread([this] { helper_loop(); }).detach();
    work_ = &work;
    wanted_ = helpers;
    started_ = 0;
    ++generation_;
  }
  start_.notify_all();
  work();
  std::unique_lock lock(mutex_);
  wanted_ = 0;  // nobody starts any more
  finished_.wait(lock, [this] { return running_ == 0; });
}

}  // namespace facekernels::emulation
