#include "shared_arena.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "sanitizer_hooks.h"

namespace facekernels::emulation {
namespace {

constexpr unsigned char kUnwritten = 0xFF;
constexpr size_t kRedZone = 64;              // poisoned bytes behind every variable
constexpr size_t kRedZonesRoom = 64 * 1024;  // what alignment and red zones may add up to
constexpr size_t kGuaranteedAlignment = 16;

}  // namespace

SharedArena::~SharedArena() {
  if (memory_) sanitizer::unpoison(memory_, capacity_);
  std::free(memory_);
}

void SharedArena::begin_block(size_t max_shared_bytes) {
  const size_t capacity = max_shared_bytes + kRedZonesRoom;
  // A new allocation makes ThreadSanitizer forget the previous block's accesses.
  if (capacity != capacity_ || sanitizer::has_thread()) {
    if (memory_) sanitizer::unpoison(memory_, capacity_);
    std::free(memory_);
    memory_ = static_cast<char*>(std::malloc(capacity));
    if (!memory_) throw std::bad_alloc();
    capacity_ = capacity;
    used_ = capacity;
  }
  sanitizer::unpoison(memory_, capacity_);
  std::memset(memory_, kUnwritten, used_);
  sanitizer::poison(memory_, capacity_);
  if (sanitizer::has_address()) written_.assign(capacity_, 0);
  // 16-byte aligned and no more, so that a kernel which assumes more is found out.
  used_ = (128 - reinterpret_cast<uintptr_t>(memory_) % 128) % 128 + kGuaranteedAlignment;
  variables_.clear();
}

SharedVariable* SharedArena::find(const void* key) {
  for (SharedVariable& variable : variables_) {
    if (variable.key == key) return &variable;
  }
  return nullptr;
}

SharedVariable* SharedArena::add(const void* key, const char* name, size_t bytes,
                                 size_t alignment) {
  const uintptr_t free_from = reinterpret_cast<uintptr_t>(memory_) + used_;
  const size_t padding = (alignment - free_from % alignment) % alignment;
  if (used_ + padding + bytes + kRedZone > capacity_) return nullptr;
  char* address = memory_ + used_ + padding;
  used_ += padding + bytes + kRedZone;
  sanitizer::unpoison(address, bytes);
  variables_.push_back({key, name, address, bytes});
  return &variables_.back();
}

const SharedVariable* SharedArena::nearest(const void* address) const {
  if (variables_.empty()) return nullptr;
  const SharedVariable* best = &variables_.front();
  for (const SharedVariable& variable : variables_) {
    if (variable.address <= address) best = &variable;
  }
  return best;
}

void SharedArena::mark_written(const void* address, size_t bytes) {
  if (written_.empty()) return;
  const size_t begin = static_cast<size_t>(static_cast<const char*>(address) - memory_);
  std::fill_n(written_.begin() + static_cast<ptrdiff_t>(begin), bytes, 1);
}

bool SharedArena::reads_unwritten(const void* address, size_t bytes) {
  const size_t begin = static_cast<size_t>(static_cast<const char*>(address) - memory_);
  bool any_unwritten = false;
  for (size_t i = begin; i < begin + bytes; ++i) {
    if (written_[i]) continue;
    // Library functions such as memset write without being seen here: the value tells.
    if (static_cast<unsigned char>(memory_[i]) != kUnwritten) return false;
    any_unwritten = true;
  }
  return any_unwritten;
}

}  // namespace facekernels::emulation
