#include "watchdog.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <thread>

#include "block_engine.h"
#include "sanitizer_hooks.h"

namespace facekernels::emulation {
namespace {

class Watchdog {
 public:
  static Watchdog& instance() {
    static Watchdog* watchdog = new Watchdog;  // never destroyed: its thread outlives main
    return *watchdog;
  }

  void watch(const BlockEngine& engine) {
    const std::lock_guard lock(mutex_);
    watched_[&engine] = {engine.switches(), 0};
  }

  void forget(const BlockEngine& engine) {
    const std::lock_guard lock(mutex_);
    watched_.erase(&engine);
  }

 private:
  struct Progress {
    uint64_t switches;
    size_t idle_seconds;
  };

  Watchdog() {
    std::thread([this] { loop(); }).detach();
  }

  void loop() {
    for (;;) {
      std::this_thread::sleep_for(std::chrono::seconds(1));
      const std::lock_guard lock(mutex_);
      for (auto& [engine, progress] : watched_) {
        const uint64_t switches = engine->switches();
        progress.idle_seconds = switches == progress.switches ? progress.idle_seconds + 1 : 0;
        progress.switches = switches;
        if (progress.idle_seconds >= engine->config().watchdog_seconds) give_up(*engine);
      }
    }
  }

  // Reads the engine while its thread runs, which only a process about to abort may do.
  [[noreturn]] static void give_up(const BlockEngine& engine) {
    const Fiber* fiber = engine.running();
    const std::string who = fiber ? engine.describe_thread(*fiber)
                                  : std::string("kernel ") + engine.launch().kernel_name;
    std::fprintf(stderr,
                 "%s: has neither waited nor returned for %zu seconds (an endless loop, or a spin "
                 "on a value that another thread of the block must write)%s\n",
                 who.c_str(), engine.config().watchdog_seconds,
                 engine.describe_all_threads().c_str());
    std::abort();
  }

  std::mutex mutex_;
  std::map<const BlockEngine*, Progress> watched_;
};

}  // namespace

WatchdogScope::WatchdogScope(const BlockEngine& engine) : engine_(nullptr) {
  if (engine.config().watchdog_seconds == 0 || sanitizer::has_thread()) return;
  engine_ = &engine;
  Watchdog::instance().watch(engine);
}

WatchdogScope::~WatchdogScope() {
  if (engine_) Watchdog::instance().forget(*engine_);
}

}  // namespace facekernels::emulation
