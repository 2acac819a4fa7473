// The functions that AddressSanitizer's instrumentation calls before an access when the kernel is
// compiled with
//   g++:     -fsanitize=address --param=asan-instrumentation-with-call-threshold=0
//   clang++: -fsanitize=address -mllvm -asan-instrumentation-with-call-threshold=0
// They do what the sanitizer's own ones do and, besides, know shared memory: accesses outside a
// variable are reported with kernel, block and thread, and so are reads of unwritten memory.
// Hidden, so that each program or library which links the runtime uses them for its own code.
#include <cstdio>

#include "block_engine.h"
#include "sanitizer_hooks.h"

namespace facekernels::emulation {
namespace {

std::string source_line(void* pc) {
  char line[512] = "unknown line";
  // A return address may already belong to the next line.
  void* call = static_cast<char*>(pc) - 1;
  if (__sanitizer_symbolize_pc) __sanitizer_symbolize_pc(call, "%s:%l", line, sizeof line);
  const std::string text = line;
  const size_t slash = text.rfind('/');
  return slash == std::string::npos ? text : text.substr(slash + 1);
}

std::string describe_access(const SharedArena& arena, const void* address, size_t bytes,
                            bool is_write, void* pc) {
  std::string text = (is_write ? "write of " : "read of ") + std::to_string(bytes) + " bytes at " +
                     source_line(pc) + ", ";
  const SharedVariable* variable = arena.nearest(address);
  if (!variable) return text + "shared memory";
  const ptrdiff_t offset = static_cast<const char*>(address) - variable->address;
  return text + "byte " + std::to_string(offset) + " of shared variable '" + variable->name +
         "' (" + std::to_string(variable->bytes) + " bytes)";
}

void check_access(const void* address, size_t bytes, bool is_write, void* pc, void* frame) {
  BlockEngine* engine = BlockEngine::current_or_null();
  const bool shared = engine && engine->running() && engine->shared().contains(address);
  if (sanitizer::is_poisoned(address, bytes)) {
    if (shared) {
      engine->fail("out of bounds " +
                   describe_access(engine->shared(), address, bytes, is_write, pc));
    }
    __asan_report_error(pc, frame, frame, const_cast<void*>(address), is_write, bytes);
    return;
  }
  if (!shared) return;
  if (is_write) {
    engine->shared().mark_written(address, bytes);
  } else if (engine->shared().reads_unwritten(address, bytes)) {
    engine->fail("uninitialised " +
                 describe_access(engine->shared(), address, bytes, is_write, pc));
  }
}

}  // namespace
}  // namespace facekernels::emulation

#define FK_EMU_HOOK extern "C" __attribute__((visibility("hidden"))) void
#define FK_EMU_CHECK(address, bytes, is_write)                                                \
  facekernels::emulation::check_access(address, bytes, is_write, __builtin_return_address(0), \
                                       __builtin_frame_address(0))
#define FK_EMU_HOOKS(bytes)                        \
  FK_EMU_HOOK __asan_load##bytes(const void* a) {  \
    FK_EMU_CHECK(a, bytes, false);                 \
  }                                                \
  FK_EMU_HOOK __asan_store##bytes(const void* a) { \
    FK_EMU_CHECK(a, bytes, true);                  \
  }

FK_EMU_HOOKS(1)
FK_EMU_HOOKS(2)
FK_EMU_HOOKS(4)
FK_EMU_HOOKS(8)
FK_EMU_HOOKS(16)
FK_EMU_HOOK __asan_loadN(const void* a, size_t bytes) {
  FK_EMU_CHECK(a, bytes, false);
}
FK_EMU_HOOK __asan_storeN(const void* a, size_t bytes) {
  FK_EMU_CHECK(a, bytes, true);
}
