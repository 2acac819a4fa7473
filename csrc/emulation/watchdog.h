// Aborts the process when a kernel spins: a thread that neither waits nor returns would otherwise
// hang without a word. Not armed under ThreadSanitizer, whose programs are slow.
#pragma once

namespace facekernels::emulation {

class BlockEngine;

// Watches `engine` while alive.
class WatchdogScope {
 public:
  explicit WatchdogScope(const BlockEngine& engine);
  ~WatchdogScope();
  WatchdogScope(const WatchdogScope&) = delete;
  WatchdogScope& operator=(const WatchdogScope&) = delete;

 private:
  const BlockEngine* engine_;  // null when not armed
};

}  // namespace facekernels::emulation
