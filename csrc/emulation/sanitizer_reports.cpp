#include "sanitizer_reports.h"

#include <cstdio>

#include "block_engine.h"
#include "sanitizer_hooks.h"

namespace facekernels::emulation {
namespace {

void print_running_thread() {
  const BlockEngine* engine = BlockEngine::current_or_null();
  if (!engine || !engine->running()) return;
  std::fprintf(stderr, "reported in %s\n", engine->describe_thread(*engine->running()).c_str());
}

}  // namespace

void name_thread_in_sanitizer_reports() {
  if (!__asan_set_error_report_callback) return;
  __asan_set_error_report_callback([](const char*) { print_running_thread(); });
}

}  // namespace facekernels::emulation

// libubsan calls this before each report. Only a definition that comes first in the program's
// symbol order takes effect: in an executable, but not in a library that Python loads.
extern "C" FK_EMU_WEAK void __ubsan_on_report() {
  facekernels::emulation::print_running_thread();
}
