// Only the registers that a called function must preserve are saved: a switch is a call.
#include "context_switch.h"

#include <cstdint>
#include <cstring>

extern "C" void facekernels_emulation_switch(void** saved, void* target);

#if defined(__x86_64__)

asm(R"(
.text
.p2align 4
.globl facekernels_emulation_switch
.hidden facekernels_emulation_switch
.type facekernels_emulation_switch,@function
facekernels_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size facekernels_emulation_switch,.-facekernels_emulation_switch
)");

namespace facekernels::emulation {

void* make_context(void* stack_top, void (*entry)()) {
  constexpr int kSavedRegisters = 6;
  void** slot = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(stack_top) & ~uintptr_t{15});
  *--slot = nullptr;  // the return address that entry must not use; also aligns its frame
  *--slot = reinterpret_cast<void*>(entry);
  for (int i = 0; i < kSavedRegisters; ++i) *--slot = nullptr;
  return slot;
}

}  // namespace facekernels::emulation

#elif defined(__aarch64__)

asm(R"(
.text
.p2align 4
.globl facekernels_emulation_switch
.hidden facekernels_emulation_switch
.type facekernels_emulation_switch,%function
facekernels_emulation_switch:
  sub sp,sp,#160
  stp x19,x20,[sp,#0]
  stp x21,x22,[sp,#16]
  stp x23,x24,[sp,#32]
  stp x25,x26,[sp,#48]
  stp x27,x28,[sp,#64]
  stp x29,x30,[sp,#80]
  stp d8,d9,[sp,#96]
  stp d10,d11,[sp,#112]
  stp d12,d13,[sp,#128]
  stp d14,d15,[sp,#144]
  mov x9,sp
  str x9,[x0]
  mov sp,x1
  ldp x19,x20,[sp,#0]
  ldp x21,x22,[sp,#16]
  ldp x23,x24,[sp,#32]
  ldp x25,x26,[sp,#48]
  ldp x27,x28,[sp,#64]
  ldp x29,x30,[sp,#80]
  ldp d8,d9,[sp,#96]
  ldp d10,d11,[sp,#112]
  ldp d12,d13,[sp,#128]
  ldp d14,d15,[sp,#144]
  add sp,sp,#160
  ret
.size facekernels_emulation_switch,.-facekernels_emulation_switch
)");

namespace facekernels::emulation {

void* make_context(void* stack_top, void (*entry)()) {
  constexpr int kSlots = 20;       // x19-x30, d8-d15
  constexpr int kReturnSlot = 11;  // x30
  void** frame =
      reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(stack_top) & ~uintptr_t{15}) - kSlots;
  std::memset(frame, 0, kSlots * sizeof(void*));
  frame[kReturnSlot] = reinterpret_cast<void*>(entry);
  return frame;
}

}  // namespace facekernels::emulation

#else
#error "the CUDA emulation has no context switch for this processor"
#endif

namespace facekernels::emulation {

void switch_context(void** saved, void* target) {
  facekernels_emulation_switch(saved, target);
}

}  // namespace facekernels::emulation
