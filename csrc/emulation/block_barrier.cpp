// __syncthreads and its variants.
#include "block_engine.h"
#include "sanitizer_hooks.h"

namespace facekernels::emulation {

int block_barrier(Operation operation, bool predicate, const SourceLocation& where) {
  return BlockEngine::current().wait_at_barrier(operation, predicate, where);
}

int BlockEngine::wait_at_barrier(Operation operation, bool predicate, const SourceLocation& where) {
  Fiber& fiber = *running_;
  fiber.operation = operation;
  fiber.predicate = predicate;
  fiber.where = where;
  fiber.state = ThreadState::kAtBarrier;
  ++at_barrier_;
  void* edge = &barrier_edges_[barrier_phase_ % 2];
  sanitizer::release(edge);
  release_barrier_if_complete();
  run_next();
  sanitizer::acquire(edge);
  return fiber.barrier_result;
}

// All living threads wait, but do they wait in the same barrier?
void BlockEngine::check_barrier(const Fiber& first) {
  for (uint32_t i = 0; i < thread_count_; ++i) {
    const Fiber& fiber = fibers_[i];
    if (fiber.state != ThreadState::kAtBarrier) continue;
    if (fiber.operation == first.operation && same_place(fiber.where, first.where)) continue;
    fail(fiber, std::string("divergent barrier: this thread waits in ") +
                    operation_name(fiber.operation) + " at " + location_text(fiber.where) +
                    " but thread " + std::to_string(first.linear_index) + " of the block in " +
                    operation_name(first.operation) + " at " + location_text(first.where));
  }
  if (alive_ == thread_count_) return;
  uint32_t exited = 0;
  while (fibers_[exited].state != ThreadState::kExited) ++exited;
  fail(fibers_[exited], std::string("divergent barrier: this thread has exited before ") +
                            operation_name(first.operation) + " at " + location_text(first.where) +
                            ", where others wait (" + std::to_string(thread_count_ - alive_) +
                            " of " + std::to_string(thread_count_) + " threads have exited)");
}

void BlockEngine::release_barrier_if_complete() {
  if (at_barrier_ == 0 || at_barrier_ != alive_) return;
  const Fiber* first = nullptr;
  int holds = 0;
  for (uint32_t i = 0; i < thread_count_; ++i) {
    const Fiber& fiber = fibers_[i];
    if (fiber.state != ThreadState::kAtBarrier) continue;
    if (!first) first = &fiber;
    holds += fiber.predicate;
  }
  if (config().strict) check_barrier(*first);

  const int waiting = static_cast<int>(at_barrier_);
  for (uint32_t i = 0; i < thread_count_; ++i) {
    Fiber& fiber = fibers_[i];
    switch (fiber.operation) {
      case Operation::kSyncThreadsCount: fiber.barrier_result = holds; break;
      case Operation::kSyncThreadsAnd: fiber.barrier_result = holds == waiting; break;
      default: fiber.barrier_result = holds != 0;
    }
  }
  at_barrier_ = 0;
  ++barrier_phase_;
  accesses_.count_barrier();
  make_ready(0, thread_count_,
             [](const Fiber& fiber) { return fiber.state == ThreadState::kAtBarrier; });
}

}  // namespace facekernels::emulation
