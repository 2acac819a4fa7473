// Counts what a launch reads and writes, as a GPU would see it: lanes of a warp that execute the
// same access together make one instruction, which moves whole 32-byte sectors.
#pragma once

#include <array>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace facekernels::emulation {

// Numbers by 64-bit key, forgotten all at once.
class KeyCounts {
 public:
  uint32_t& operator[](uint64_t key);
  void clear();

 private:
  struct Slot {
    uint64_t key = 0;
    uint32_t value = 0;
    uint32_t generation = 0;
  };
  Slot& slot_of(uint64_t key);

  std::vector<Slot> slots_ = std::vector<Slot>(1024);
  size_t used_ = 0;
  uint32_t generation_ = 1;
};

struct AccessCounts {
  uint64_t bytes = 0;         // asked for by threads
  uint64_t instructions = 0;  // of warps
  // Global memory, in sectors of 32 bytes: one count per instruction that touches a sector, per
  // block, and per launch.
  uint64_t sectors = 0;
  uint64_t block_sectors = 0;
  uint64_t unique_sectors = 0;
  // Shared memory: passes, each of which serves one 4-byte word per bank.
  uint64_t passes = 0;
};

enum class AccessKind { kLoad, kStore, kShared };

class AccessCounter {
 public:
  void begin_launch();
  void begin_block(uint32_t threads);
  void end_block();

  void count(AccessKind kind, const void* address, size_t bytes, const void* site, uint32_t thread);
  void count_barrier() { ++barriers_of_block_; }

  // Members of a JSON object.
  std::string json() const;

 private:
  static constexpr unsigned kSectorBits = 5, kPageBits = 17;
  using Page = std::bitset<1u << (kPageBits - kSectorBits)>;

  // Which instruction of its warp this is: lanes run the same site for the n-th time together.
  uint64_t instruction(const void* site, uint32_t thread);
  void count_sectors(AccessKind kind, uint64_t instruction, uintptr_t first, uintptr_t last);
  void count_passes(uint64_t instruction, uintptr_t first, uintptr_t last);
  bool is_new_in_launch(AccessKind kind, uint64_t sector);

  std::array<AccessCounts, 3> counts_;
  // Of the busiest thread of each block: the most, and the sum over the blocks.
  struct Chain {
    uint64_t most = 0, sum = 0;
    void add(uint64_t of_block);
  };
  Chain loads_, barriers_;
  uint64_t barriers_of_block_ = 0;
  std::unordered_map<const void*, size_t> sites_;
  std::vector<std::vector<uint32_t>> executions_;  // by site and thread of the block
  std::vector<uint32_t> loads_of_thread_;
  KeyCounts of_block_;
  std::array<std::unordered_map<uint64_t, std::unique_ptr<Page>>, 2> pages_;
};

}  // namespace facekernels::emulation
