#include "config.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>

#include "sanitizer_hooks.h"

namespace facekernels::emulation {
namespace {

std::string variable(const char* suffix) {
  const char* value = std::getenv((std::string("FACEKERNELS_EMU_") + suffix).c_str());
  return value ? value : "";
}

[[noreturn]] void reject(const char* suffix, const char* expected, const std::string& value) {
  throw std::invalid_argument(std::string("FACEKERNELS_EMU_") + suffix + " must be " + expected +
                              ", got '" + value + "'");
}

uint64_t number(const char* suffix, uint64_t fallback) {
  const std::string text = variable(suffix);
  if (text.empty()) return fallback;
  char* end = nullptr;
  const uint64_t value = std::strtoull(text.c_str(), &end, 0);
  if (*end != '\0' || text[0] == '-') reject(suffix, "a non-negative integer", text);
  return value;
}

void read_schedule(Config& config) {
  const std::string text = variable("SCHEDULE");
  const std::string random = "random";
  if (text.empty() || text == "forward") {
    config.schedule = Schedule::kForward;
  } else if (text == "reverse") {
    config.schedule = Schedule::kReverse;
  } else if (text == random) {
    config.schedule = Schedule::kRandom;
  } else if (text.starts_with(random + ":")) {
    config.schedule = Schedule::kRandom;
    config.seed = std::strtoull(text.c_str() + random.size() + 1, nullptr, 0);
  } else {
    reject("SCHEDULE", "forward, reverse or random:SEED", text);
  }
}

void read_async_copy(Config& config) {
  const std::string text = variable("ASYNC");
  if (text.empty() || text == "lazy") {
    config.async_copy = AsyncCopyTime::kAtWait;
  } else if (text == "eager") {
    config.async_copy = AsyncCopyTime::kAtIssue;
  } else if (text == "random") {
    config.async_copy = AsyncCopyTime::kRandom;
  } else {
    reject("ASYNC", "lazy, eager or random", text);
  }
}

}  // namespace

Config Config::from_environment() {
  Config config;
  read_schedule(config);
  read_async_copy(config);
  config.strict = number("STRICT", 1) != 0;
  static const size_t processors = std::max(1u, std::thread::hardware_concurrency());
  config.workers = std::max<size_t>(1, number("WORKERS", processors));
  config.max_shared_bytes = number("MAX_SHARED", config.max_shared_bytes);
  // Instrumented frames are larger.
  const bool instrumented = sanitizer::has_address() || sanitizer::has_thread();
  const size_t stack_bytes = number("STACK", instrumented ? 256 * 1024 : config.stack_bytes);
  config.stack_bytes = std::max<size_t>(stack_bytes, 32 * 1024);
  config.watchdog_seconds = number("WATCHDOG", config.watchdog_seconds);
  config.max_fresh_threads = number("FRESH_THREADS", config.max_fresh_threads);
  config.fresh_stack_bytes = number("FRESH_STACK", config.fresh_stack_bytes);
  config.launch_log = variable("LAUNCH_LOG");
  if (config.counts_accesses()) config.workers = 1;
  return config;
}

}  // namespace facekernels::emulation
