// cp.async: copies that are queued, committed in groups and waited for.
#include <algorithm>
#include <cstring>

#include "block_engine.h"
#include "sanitizer_hooks.h"

namespace facekernels::emulation {
namespace {

void move(SharedArena& arena, PendingCopy& copy) {
  const size_t data = copy.bytes - copy.zero_fill;
  std::memcpy(copy.destination, copy.source, data);
  std::memset(static_cast<char*>(copy.destination) + data, 0, copy.zero_fill);
  arena.mark_written(copy.destination, copy.bytes);
  copy.moved = true;
}

// The hardware may copy at any time between issue and wait: ThreadSanitizer is shown an access at
// the issue, and sees another where the data moves.
void show_access(const PendingCopy& copy) {
  if (!__tsan_write_range) return;
  __tsan_read_range(const_cast<void*>(copy.source), copy.bytes - copy.zero_fill);
  __tsan_write_range(copy.destination, copy.bytes);
}

bool moves_at_issue(BlockEngine& engine) {
  switch (engine.config().async_copy) {
    case AsyncCopyTime::kAtIssue: return true;
    case AsyncCopyTime::kRandom: return (engine.random().next() & 1024) != 0;
    default: return false;
  }
}

bool is_multiple(const void* address, size_t bytes) {
  return reinterpret_cast<uintptr_t>(address) % bytes == 0;
}

}  // namespace

void copy_async(void* destination, const void* source, size_t bytes, size_t zero_fill,
                const SourceLocation& where) {
  BlockEngine& engine = BlockEngine::current();
  const auto reject = [&](const char* reason) {
    engine.fail("asynchronous copy of " + std::to_string(bytes) + " bytes at " +
                location_text(where) + ": " + reason);
  };
  if (bytes != 4 && bytes != 8 && bytes != 16) reject("the size must be 4, 8 or 16");
  if (zero_fill > bytes) reject("zero_fill is larger than the size");
  if (!is_multiple(destination, bytes)) reject("the destination is misaligned for that size");
  if (!is_multiple(source, bytes)) reject("the source is misaligned for that size");
  if (!engine.shared().contains(destination)) reject("the destination is not shared memory");
  if (sanitizer::is_poisoned(destination, bytes)) {
    reject("the destination lies outside its shared variable");
  }
  if (sanitizer::is_poisoned(source, bytes - zero_fill)) reject("the source is out of bounds");

  Fiber& fiber = *engine.running();
  PendingCopy copy{destination, source, bytes, zero_fill, fiber.copy_group, false, where};
  show_access(copy);
  // Two accesses, told apart by addresses of the caller's name.
  engine.count_access(source, bytes - zero_fill, false, where.function_name());
  engine.count_access(destination, bytes, true, where.function_name() + 1);
  if (moves_at_issue(engine)) move(engine.shared(), copy);
  fiber.copies.push_back(copy);
}

void commit_async_group() {
  ++BlockEngine::current().running()->copy_group;
}

void wait_async_groups(size_t groups_left_pending) {
  BlockEngine& engine = BlockEngine::current();
  Fiber& fiber = *engine.running();
  if (fiber.copy_group < groups_left_pending) return;
  const size_t first_pending = fiber.copy_group - groups_left_pending;
  std::vector<PendingCopy> left;
  for (PendingCopy& copy : fiber.copies) {
    if (copy.group >= first_pending) {
      left.push_back(copy);
    } else if (!copy.moved) {
      move(engine.shared(), copy);
    }
  }
  fiber.copies.swap(left);
}

}  // namespace facekernels::emulation
