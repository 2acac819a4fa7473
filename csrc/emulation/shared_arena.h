// The shared memory of the block that an engine runs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace facekernels::emulation {

struct SharedVariable {
  const void* key;
  const char* name;
  char* address;
  size_t bytes;
};

// Filled with 0xFF at the start of a block, so that a read of what was never written gives NaN or
// -1. Under AddressSanitizer everything outside a variable is poisoned, and reads of unwritten
// bytes are reported (memory_access_hooks.cpp).
class SharedArena {
 public:
  SharedArena() = default;
  ~SharedArena();
  SharedArena(const SharedArena&) = delete;
  SharedArena& operator=(const SharedArena&) = delete;

  void begin_block(size_t max_shared_bytes);
  SharedVariable* find(const void* key);
  // Null when the arena is full.
  SharedVariable* add(const void* key, const char* name, size_t bytes, size_t alignment);

  bool contains(const void* address) const {
    return address >= memory_ && address < memory_ + capacity_;
  }
  // The last variable that begins at or before `address`, or the first; null when there is none.
  const SharedVariable* nearest(const void* address) const;

  void mark_written(const void* address, size_t bytes);
  // True when the read sees bytes that nothing has written since the block began.
  bool reads_unwritten(const void* address, size_t bytes);

 private:
  char* memory_ = nullptr;
  size_t capacity_ = 0;
  size_t used_ = 0;
  std::vector<unsigned char> written_;  // one flag per byte; empty without AddressSanitizer
  std::vector<SharedVariable> variables_;
};

}  // namespace facekernels::emulation
