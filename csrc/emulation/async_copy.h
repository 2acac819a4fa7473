// cp.async through the pipeline primitives. By default the data moves at the wait, so a missing
// wait or barrier reads poison instead of lucky data (FACEKERNELS_EMU_ASYNC).
#pragma once

#include "runtime.h"

inline void __pipeline_memcpy_async(void* shared_destination, const void* global_source,
                                    size_t bytes, size_t zero_fill = 0, FK_EMU_HERE) {
  facekernels::emulation::copy_async(shared_destination, global_source, bytes, zero_fill,
                                     fk_emu_location);
}

inline void __pipeline_commit() {
  facekernels::emulation::commit_async_group();
}

inline void __pipeline_wait_prior(size_t groups_left_pending) {
  facekernels::emulation::wait_async_groups(groups_left_pending);
}
