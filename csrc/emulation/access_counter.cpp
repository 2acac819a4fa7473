#include "access_counter.h"

#include <algorithm>

#include "block_engine.h"

namespace facekernels::emulation {
namespace {

// The finalizer of SplitMix64.
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

uint64_t mix(uint64_t a, uint64_t b) {
  return mix(a + 0x9e3779b97f4a7c15ull * (b + 1));
}

}  // namespace

KeyCounts::Slot& KeyCounts::slot_of(uint64_t key) {
  size_t at = key % slots_.size();
  while (slots_[at].generation == generation_ && slots_[at].key != key) {
    at = (at + 1) % slots_.size();
  }
  return slots_[at];
}

uint32_t& KeyCounts::operator[](uint64_t key) {
  Slot* slot = &slot_of(key);
  if (slot->generation == generation_) return slot->value;
  if (2 * ++used_ > slots_.size()) {
    std::vector<Slot> old(2 * slots_.size());
    old.swap(slots_);
    for (const Slot& s : old) {
      if (s.generation == generation_) slot_of(s.key) = s;
    }
    slot = &slot_of(key);
  }
  *slot = {key, 0, generation_};
  return slot->value;
}

void KeyCounts::clear() {
  ++generation_;
  used_ = 0;
}

void AccessCounter::begin_launch() {
  *this = AccessCounter();
}

void AccessCounter::begin_block(uint32_t threads) {
  for (std::vector<uint32_t>& executions : executions_) executions.assign(threads, 0);
  loads_of_thread_.assign(threads, 0);
  of_block_.clear();
  barriers_of_block_ = 0;
}

void AccessCounter::Chain::add(uint64_t of_block) {
  most = std::max(most, of_block);
  sum += of_block;
}

void AccessCounter::end_block() {
  loads_.add(*std::max_element(loads_of_thread_.begin(), loads_of_thread_.end()));
  barriers_.add(barriers_of_block_);
}

uint64_t AccessCounter::instruction(const void* site, uint32_t thread) {
  const auto [entry, is_new] = sites_.try_emplace(site, sites_.size());
  if (is_new) executions_.emplace_back(loads_of_thread_.size(), 0);
  const uint64_t execution = executions_[entry->second][thread]++;
  return mix(entry->second << 16 | thread / kLanes, execution);
}

void AccessCounter::count(AccessKind kind, const void* address, size_t bytes, const void* site,
                          uint32_t thread) {
  const uint64_t key = instruction(site, thread);
  AccessCounts& counts = counts_[static_cast<size_t>(kind)];
  counts.bytes += bytes;
  counts.instructions += of_block_[key]++ == 0;
  loads_of_thread_[thread] += kind == AccessKind::kLoad;
  const uintptr_t first = reinterpret_cast<uintptr_t>(address);
  if (kind == AccessKind::kShared) {
    count_passes(key, first, first + bytes - 1);
  } else {
    count_sectors(kind, key, first, first + bytes - 1);
  }
}

void AccessCounter::count_sectors(AccessKind kind, uint64_t instruction, uintptr_t first,
                                  uintptr_t last) {
  AccessCounts& counts = counts_[static_cast<size_t>(kind)];
  for (uint64_t sector = first >> kSectorBits; sector <= last >> kSectorBits; ++sector) {
    counts.sectors += of_block_[mix(instruction, sector)]++ == 0;
    if (of_block_[mix(static_cast<uint64_t>(kind), sector)]++ != 0) continue;
    ++counts.block_sectors;
    counts.unique_sectors += is_new_in_launch(kind, sector);
  }
}

bool AccessCounter::is_new_in_launch(AccessKind kind, uint64_t sector) {
  std::unique_ptr<Page>& page =
      pages_[static_cast<size_t>(kind)][sector >> (kPageBits - kSectorBits)];
  if (!page) page = std::make_unique<Page>();
  auto seen = (*page)[sector % page->size()];
  if (seen) return false;
  seen = true;
  return true;
}

// Lanes that ask for the same word are served together; another word of the bank takes a pass.
void AccessCounter::count_passes(uint64_t instruction, uintptr_t first, uintptr_t last) {
  constexpr uint64_t kBanks = 32;
  for (uint64_t word = first / 4; word <= last / 4; ++word) {
    if (of_block_[mix(instruction, word)]++ != 0) continue;
    const uint32_t in_bank = ++of_block_[mix(~instruction, word % kBanks)];
    uint32_t& passes = of_block_[mix(~instruction, kBanks)];
    if (in_bank > passes) {
      passes = in_bank;
      ++counts_[static_cast<size_t>(AccessKind::kShared)].passes;
    }
  }
}

std::string AccessCounter::json() const {
  const auto member = [](const char* name, uint64_t value) {
    return "\"" + std::string(name) + "\": " + std::to_string(value);
  };
  const auto global = [&](const char* name, AccessKind kind) {
    const AccessCounts& c = counts_[static_cast<size_t>(kind)];
    return "\"" + std::string(name) + "\": {" + member("bytes", c.bytes) + ", " +
           member("instructions", c.instructions) + ", " + member("sectors", c.sectors) + ", " +
           member("block_sectors", c.block_sectors) + ", " +
           member("unique_sectors", c.unique_sectors) + "}";
  };
  const AccessCounts& shared = counts_[static_cast<size_t>(AccessKind::kShared)];
  const auto chain = [&](const char* name, const Chain& c) {
    return "\"" + std::string(name) + "\": {" + member("most", c.most) + ", " +
           member("sum", c.sum) + "}";
  };
  return global("load", AccessKind::kLoad) + ", " + global("store", AccessKind::kStore) +
         ", \"shared\": {" + member("bytes", shared.bytes) + ", " +
         member("instructions", shared.instructions) + ", " + member("passes", shared.passes) +
         "}, " + chain("thread_loads", loads_) + ", " + chain("barriers", barriers_);
}

}  // namespace facekernels::emulation

// What the kernel's code calls before every access when it is compiled with
//   g++ -O1 -fno-tree-sra -fsanitize=kernel-address
//       --param=asan-instrumentation-with-call-threshold=0
//       --param=asan-stack=0 --param=asan-globals=0
// That sanitizer leaves its functions to the program; nothing but the counting is in these.
namespace {

void count_access(const void* address, size_t bytes, bool is_write, const void* site) {
  using namespace facekernels::emulation;
  BlockEngine* const engine = BlockEngine::current_or_null();
  if (engine && engine->running()) engine->count_access(address, bytes, is_write, site);
}

}  // namespace

#define FK_EMU_COUNT_HOOK extern "C" __attribute__((visibility("hidden"))) void
#define FK_EMU_COUNT_HOOKS(bytes)                                  \
  FK_EMU_COUNT_HOOK __asan_load##bytes##_noabort(const void* a) {  \
    count_access(a, bytes, false, __builtin_return_address(0));    \
  }                                                                \
  FK_EMU_COUNT_HOOK __asan_store##bytes##_noabort(const void* a) { \
    count_access(a, bytes, true, __builtin_return_address(0));     \
  }

FK_EMU_COUNT_HOOKS(1)
FK_EMU_COUNT_HOOKS(2)
FK_EMU_COUNT_HOOKS(4)
FK_EMU_COUNT_HOOKS(8)
FK_EMU_COUNT_HOOKS(16)
FK_EMU_COUNT_HOOK __asan_loadN_noabort(const void* a, size_t bytes) {
  count_access(a, bytes, false, __builtin_return_address(0));
}
FK_EMU_COUNT_HOOK __asan_storeN_noabort(const void* a, size_t bytes) {
  count_access(a, bytes, true, __builtin_return_address(0));
}
FK_EMU_COUNT_HOOK __asan_handle_no_return() {}
