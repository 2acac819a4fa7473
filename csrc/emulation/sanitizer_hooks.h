// The sanitizers' interfaces as weak symbols: absent in a plain program, so one build of the
// runtime serves plain, AddressSanitizer and ThreadSanitizer programs.
#pragma once

#include <cstddef>

#define FK_EMU_WEAK __attribute__((weak))
extern "C" {
FK_EMU_WEAK void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, size_t size);
FK_EMU_WEAK void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom,
                                                 size_t* size);
FK_EMU_WEAK void __sanitizer_symbolize_pc(void* pc, const char* format, char* out, size_t size);
FK_EMU_WEAK void __asan_poison_memory_region(const volatile void* address, size_t bytes);
FK_EMU_WEAK void __asan_unpoison_memory_region(const volatile void* address, size_t bytes);
FK_EMU_WEAK void* __asan_region_is_poisoned(void* address, size_t bytes);
FK_EMU_WEAK void __asan_set_error_report_callback(void (*callback)(const char*));
FK_EMU_WEAK void __asan_report_error(void* pc, void* bp, void* sp, void* address, int is_write,
                                     size_t bytes);
FK_EMU_WEAK void* __tsan_get_current_fiber();
FK_EMU_WEAK void* __tsan_create_fiber(unsigned flags);
FK_EMU_WEAK void __tsan_destroy_fiber(void* fiber);
FK_EMU_WEAK void __tsan_switch_to_fiber(void* fiber, unsigned flags);
FK_EMU_WEAK void __tsan_set_fiber_name(void* fiber, const char* name);
FK_EMU_WEAK void __tsan_acquire(void* address);
FK_EMU_WEAK void __tsan_release(void* address);
FK_EMU_WEAK void __tsan_read_range(void* address, unsigned long bytes);
FK_EMU_WEAK void __tsan_write_range(void* address, unsigned long bytes);
FK_EMU_WEAK void AnnotateIgnoreReadsBegin(const char* file, int line);
FK_EMU_WEAK void AnnotateIgnoreReadsEnd(const char* file, int line);
FK_EMU_WEAK void AnnotateIgnoreWritesBegin(const char* file, int line);
FK_EMU_WEAK void AnnotateIgnoreWritesEnd(const char* file, int line);
}

namespace facekernels::emulation::sanitizer {

inline bool has_address() {
  return __asan_poison_memory_region != nullptr;
}
inline bool has_thread() {
  return __tsan_create_fiber != nullptr;
}

inline void poison(const void* address, size_t bytes) {
  if (__asan_poison_memory_region) __asan_poison_memory_region(address, bytes);
}
inline void unpoison(const void* address, size_t bytes) {
  if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(address, bytes);
}
inline bool is_poisoned(const void* address, size_t bytes) {
  return __asan_region_is_poisoned &&
         __asan_region_is_poisoned(const_cast<void*>(address), bytes) != nullptr;
}

// Whatever came before release(edge) in one thread happens before what follows acquire(edge) in
// another. These edges are the only order that ThreadSanitizer sees between CUDA threads.
inline void release(void* edge) {
  if (__tsan_release) __tsan_release(edge);
}
inline void acquire(void* edge) {
  if (__tsan_acquire) __tsan_acquire(edge);
}

// Accesses of the runtime's own book-keeping (through intercepted functions such as memcpy), which
// are not accesses of the kernel. Never leave a fiber for good while one is alive.
class IgnoreAccesses {
 public:
  IgnoreAccesses() {
    if (!AnnotateIgnoreReadsBegin) return;
    AnnotateIgnoreReadsBegin("", 0);
    AnnotateIgnoreWritesBegin("", 0);
  }
  ~IgnoreAccesses() {
    if (!AnnotateIgnoreReadsEnd) return;
    AnnotateIgnoreWritesEnd("", 0);
    AnnotateIgnoreReadsEnd("", 0);
  }
  IgnoreAccesses(const IgnoreAccesses&) = delete;
  IgnoreAccesses& operator=(const IgnoreAccesses&) = delete;
};

}  // namespace facekernels::emulation::sanitizer
