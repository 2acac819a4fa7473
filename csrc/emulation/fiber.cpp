#include "fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <new>

#include "sanitizer_hooks.h"

namespace facekernels::emulation {
namespace {

size_t page_bytes() {
  static const size_t bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

size_t whole_pages(size_t bytes) {
  return (bytes + page_bytes() - 1) / page_bytes() * page_bytes();
}

constexpr int kProtection = PROT_READ | PROT_WRITE;
constexpr int kMapping = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

}  // namespace

void FiberStack::allocate(size_t bytes, uint32_t index) {
  const size_t guard = page_bytes();
  const size_t room_for_shift = page_bytes();
  bytes_ = whole_pages(bytes) + room_for_shift;
  map_bytes_ = guard + bytes_;
  void* map = mmap(nullptr, map_bytes_, kProtection, kMapping, -1, 0);
  if (map == MAP_FAILED) throw std::bad_alloc();
  map_ = static_cast<char*>(map);
  mprotect(map_, guard, PROT_NONE);
  bottom_ = map_ + guard;
  shift_ = (index * 192u) % 4096;
}

void FiberStack::forget_top(size_t bytes) {
  const size_t n = std::min(bytes_, whole_pages(bytes));
  mmap(bottom_ + bytes_ - n, n, kProtection, kMapping | MAP_FIXED, -1, 0);
}

FiberStack::~FiberStack() {
  if (!map_) return;
  sanitizer::unpoison(bottom_, bytes_);
  munmap(map_, map_bytes_);
}

}  // namespace facekernels::emulation
