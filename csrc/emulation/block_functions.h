// Barriers of a block, fences, and the few built-ins about the running thread.
#pragma once

#include "runtime.h"

inline void __syncthreads(FK_EMU_HERE) {
  using namespace facekernels::emulation;
  block_barrier(Operation::kSyncThreads, false, fk_emu_location);
}

inline int __syncthreads_count(int predicate, FK_EMU_HERE) {
  using namespace facekernels::emulation;
  return block_barrier(Operation::kSyncThreadsCount, predicate != 0, fk_emu_location);
}

inline int __syncthreads_and(int predicate, FK_EMU_HERE) {
  using namespace facekernels::emulation;
  return block_barrier(Operation::kSyncThreadsAnd, predicate != 0, fk_emu_location);
}

inline int __syncthreads_or(int predicate, FK_EMU_HERE) {
  using namespace facekernels::emulation;
  return block_barrier(Operation::kSyncThreadsOr, predicate != 0, fk_emu_location);
}

// Atomics already carry the order that a fence would give (atomics.h), so a missing fence is not
// found and a present one has nothing to do.
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

inline void __nanosleep(unsigned) {
  facekernels::emulation::yield_thread();
}

[[noreturn]] inline void __trap(FK_EMU_HERE) {
  facekernels::emulation::report_error("__trap()", fk_emu_location);
}
