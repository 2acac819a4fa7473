// Switching the processor from one stack to another.
#pragma once

namespace facekernels::emulation {

// A new context: the first switch to it calls `entry`, which must never return. Returns the stack
// pointer to switch to. `stack_top` is the (exclusive) upper end of the stack.
void* make_context(void* stack_top, void (*entry)());

// Saves the running context's stack pointer to *saved and continues at `target`.
void switch_context(void** saved, void* target);

}  // namespace facekernels::emulation
