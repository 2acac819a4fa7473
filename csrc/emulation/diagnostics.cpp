// The text of error messages.
#include <cstdio>
#include <cstring>
#include <map>

#include "block_engine.h"
#include "sanitizer_hooks.h"

namespace facekernels::emulation {
namespace {

std::string index_text(uint3 index) {
  return "(" + std::to_string(index.x) + "," + std::to_string(index.y) + "," +
         std::to_string(index.z) + ")";
}

// "0-15,20,22-31"
std::string ranges_text(const std::vector<uint32_t>& sorted) {
  constexpr size_t kMaxRanges = 16;
  std::string text;
  size_t ranges = 0;
  for (size_t i = 0; i < sorted.size();) {
    size_t last = i;
    while (last + 1 < sorted.size() && sorted[last + 1] == sorted[last] + 1) ++last;
    if (ranges++ == kMaxRanges) return text + ",...";
    if (i > 0) text += ",";
    text += std::to_string(sorted[i]);
    if (last > i) text += "-" + std::to_string(sorted[last]);
    i = last + 1;
  }
  return text;
}

}  // namespace

const char* operation_name(Operation operation) {
  switch (operation) {
    case Operation::kSyncThreads: return "__syncthreads";
    case Operation::kSyncThreadsCount: return "__syncthreads_count";
    case Operation::kSyncThreadsAnd: return "__syncthreads_and";
    case Operation::kSyncThreadsOr: return "__syncthreads_or";
    case Operation::kSyncWarp: return "__syncwarp";
    case Operation::kShuffle: return "__shfl_*_sync";
    case Operation::kBallot: return "__ballot_sync";
    case Operation::kAny: return "__any_sync";
    case Operation::kAll: return "__all_sync";
    case Operation::kMatchAny: return "__match_any_sync";
    case Operation::kMatchAll: return "__match_all_sync";
    case Operation::kReduce: return "__reduce_*_sync";
    case Operation::kMatrixLoad: return "ldmatrix";
    case Operation::kMatrixProduct: return "mma.sync";
  }
  return "unknown operation";
}

std::string location_text(const SourceLocation& where) {
  const char* slash = std::strrchr(where.file_name(), '/');
  return std::string(slash ? slash + 1 : where.file_name()) + ":" + std::to_string(where.line());
}

std::string mask_text(uint32_t mask) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%08x", mask);
  return text;
}

bool same_place(const SourceLocation& a, const SourceLocation& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         (a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0);
}

std::string BlockEngine::describe_thread(const Fiber& fiber) const {
  return std::string("kernel ") + launch_->kernel_name + " block " + index_text(block_index_) +
         " thread " + index_text(fiber.thread_index) + " warp " + std::to_string(fiber.warp) +
         " lane " + std::to_string(fiber.lane);
}

std::string BlockEngine::describe_state(const Fiber& fiber) const {
  const auto waits = [&fiber] {
    return std::string("waiting in ") + operation_name(fiber.operation);
  };
  switch (fiber.state) {
    case ThreadState::kExited: return "exited";
    case ThreadState::kReady: return "running or ready to run";
    case ThreadState::kAtBarrier: return waits() + " at " + location_text(fiber.where);
    case ThreadState::kInWarpCall: break;
  }
  const Warp& warp = warps_[fiber.warp];
  uint32_t arrived = 0;
  for (unsigned k = 0; k < warp.pending_count; ++k) {
    if (warp.pending[k].mask == fiber.mask) arrived = warp.pending[k].arrived;
  }
  return waits() + " at " + location_text(fiber.where) + ", warp " + std::to_string(fiber.warp) +
         ", mask " + mask_text(fiber.mask) + ", lanes not arrived " +
         mask_text(warp.expected(fiber.mask) & ~arrived);
}

std::string BlockEngine::describe_all_threads() const {
  std::map<std::string, std::vector<uint32_t>> threads_by_state;
  for (uint32_t i = 0; i < thread_count_; ++i) {
    threads_by_state[describe_state(fibers_[i])].push_back(i);
  }
  std::string text;
  for (const auto& [state, threads] : threads_by_state) {
    text += "\n  threads " + ranges_text(threads) + ": " + state;
  }
  return text;
}

// ThreadSanitizer prints the name of a thread in its reports; it keeps 63 characters.
void BlockEngine::name_fiber(const Fiber& fiber) {
  if (!__tsan_set_fiber_name) return;
  constexpr size_t kMaxLength = 63;
  const std::string place =
      " block " + index_text(block_index_) + " thread " + index_text(fiber.thread_index);
  const std::string name = std::string(launch_->kernel_name).substr(0, kMaxLength - place.size());
  __tsan_set_fiber_name(fiber.tsan_fiber, (name + place).c_str());
}

}  // namespace facekernels::emulation
