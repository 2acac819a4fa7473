// FK_SHARED and FK_DYN_SHARED: CUDA's limits, and memory from the running block's arena.
#include <algorithm>

#include "block_engine.h"
#include "sanitizer_hooks.h"

namespace facekernels::emulation {
namespace {

constexpr size_t kMaxStaticBytes = 48 * 1024;
constexpr size_t kMinAlignment = 4;
constexpr size_t kDynamicAlignment = 16;

SharedVariable* add(SharedArena& arena, const void* key, const char* name, size_t bytes,
                    size_t alignment) {
  const sanitizer::IgnoreAccesses ignore;
  return arena.add(key, name, bytes, alignment);
}

}  // namespace

void* shared_variable(const void* key, size_t bytes, size_t alignment, const char* name,
                      const SourceLocation& where) {
  BlockEngine& engine = BlockEngine::current();
  if (const SharedVariable* known = engine.shared().find(key)) return known->address;

  const auto reject = [&](const std::string& reason) {
    engine.fail(std::string("shared variable '") + name + "' (" + std::to_string(bytes) +
                " bytes) at " + location_text(where) + ": " + reason);
  };
  size_t& total = engine.static_shared_bytes();
  total += bytes;
  if (total > kMaxStaticBytes) {
    reject("static shared memory adds up to " + std::to_string(total) +
           " bytes, at most 48 KiB are allowed");
  }
  const size_t dynamic = engine.launch().dynamic_shared_bytes;
  if (total + dynamic > engine.config().max_shared_bytes) {
    reject("static and dynamic shared memory add up to " + std::to_string(total + dynamic) +
           " bytes, at most " + std::to_string(engine.config().max_shared_bytes) + " are allowed");
  }
  const SharedVariable* variable =
      add(engine.shared(), key, name, bytes, std::max(alignment, kMinAlignment));
  if (!variable) reject("too many shared variables for the emulation");
  return variable->address;
}

void* dynamic_shared_memory() {
  BlockEngine& engine = BlockEngine::current();
  static const char key = 0;
  if (const SharedVariable* known = engine.shared().find(&key)) return known->address;
  const SharedVariable* variable = add(engine.shared(), &key, "dynamic shared memory",
                                       engine.launch().dynamic_shared_bytes, kDynamicAlignment);
  if (!variable) engine.fail("too many shared variables for the emulation");
  return variable->address;
}

}  // namespace facekernels::emulation
