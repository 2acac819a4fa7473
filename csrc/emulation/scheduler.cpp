// BlockEngine: the life of a block and of its fibers.
#include <pthread.h>

#include <cstdlib>
#include <exception>

#include "block_engine.h"
#include "context_switch.h"
#include "sanitizer_hooks.h"

FK_EMU_THREAD_LOCAL uint3 threadIdx;
FK_EMU_THREAD_LOCAL uint3 blockIdx;
FK_EMU_THREAD_LOCAL dim3 blockDim;
FK_EMU_THREAD_LOCAL dim3 gridDim;

namespace facekernels::emulation {
namespace {

FK_EMU_THREAD_LOCAL BlockEngine* current_engine = nullptr;

constexpr unsigned kNoHappensBefore = 1;  // flag of __tsan_switch_to_fiber

}  // namespace

BlockEngine& BlockEngine::current() {
  if (!current_engine || !current_engine->running_) {
    throw DeviceError("a CUDA device function was called outside a kernel");
  }
  return *current_engine;
}

BlockEngine* BlockEngine::current_or_null() {
  return current_engine;
}

BlockEngine::~BlockEngine() {
  const sanitizer::IgnoreAccesses ignore;
  destroy_fibers();
}

void BlockEngine::destroy_fibers() {
  for (Fiber& fiber : fibers_) {
    if (fiber.tsan_fiber) __tsan_destroy_fiber(fiber.tsan_fiber);
  }
  fibers_.clear();
}

void BlockEngine::create_fibers(uint32_t count) {
  fibers_ = std::vector<Fiber>(count);
  for (uint32_t i = 0; i < count; ++i) {
    Fiber& fiber = fibers_[i];
    fiber.stack.allocate(config().stack_bytes, i);
    fiber.stack_pointer = make_context(fiber.stack.top(), fiber_main);
    if (sanitizer::has_thread()) fiber.tsan_fiber = __tsan_create_fiber(0);
  }
  fiber_stack_bytes_ = config().stack_bytes;
}

// New ThreadSanitizer threads on the old stacks, so that blocks do not inherit each other's order
// and races between blocks show. All are created before any is destroyed: identities are reused.
void BlockEngine::renew_fibers() {
  std::vector<void*> old;
  for (uint32_t i = 0; i < thread_count_; ++i) {
    Fiber& fiber = fibers_[i];
    old.push_back(fiber.tsan_fiber);
    fiber.tsan_fiber = __tsan_create_fiber(0);
    fiber.stack.forget_top(config().fresh_stack_bytes);
    fiber.stack_pointer = make_context(fiber.stack.top(), fiber_main);
  }
  for (void* fiber : old) __tsan_destroy_fiber(fiber);
}

void BlockEngine::set_thread_indices() {
  const dim3 block = launch_->block;
  for (uint32_t i = 0; i < thread_count_; ++i) {
    Fiber& fiber = fibers_[i];
    fiber.linear_index = i;
    fiber.warp = i / kLanes;
    fiber.lane = i % kLanes;
    fiber.thread_index = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
  }
}

void BlockEngine::begin_launch(const Launch& launch) {
  launch_ = &launch;
  current_engine = this;
  if (!main_stack_bottom_) {  // once: on a process's first thread this parses the memory map
    pthread_attr_t attributes;
    void* bottom = nullptr;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &bottom, &main_stack_bytes_);
    pthread_attr_destroy(&attributes);
    main_stack_bottom_ = bottom;
  }
  if (sanitizer::has_thread()) main_tsan_fiber_ = __tsan_get_current_fiber();

  thread_count_ = static_cast<uint32_t>(launch.threads_per_block());
  const bool abandoned = !error_.empty();  // some fibers still stand in the middle of a kernel
  if (abandoned || fibers_.size() < thread_count_ || fiber_stack_bytes_ != config().stack_bytes) {
    const sanitizer::IgnoreAccesses ignore;
    destroy_fibers();
    error_.clear();
    create_fibers(thread_count_);
  }
  warps_.resize((thread_count_ + kLanes - 1) / kLanes);
  set_thread_indices();
  if (config().counts_accesses()) accesses_.begin_launch();
  ::blockDim = launch.block;
  ::gridDim = launch.grid;
}

void BlockEngine::end_launch() {
  current_engine = nullptr;
  launch_ = nullptr;
}

void BlockEngine::start_block(uint64_t block) {
  const sanitizer::IgnoreAccesses ignore;
  const dim3 grid = launch_->grid;
  block_index_ = {static_cast<unsigned>(block % grid.x),
                  static_cast<unsigned>(block / grid.x % grid.y),
                  static_cast<unsigned>(block / grid.x / grid.y)};
  ::blockIdx = block_index_;
  // From the block's index, so that a random schedule does not depend on which worker runs it.
  random_.seed(config().seed * 0x100000001B3ull + block);

  shared_.begin_block(config().max_shared_bytes);
  if (config().counts_accesses()) accesses_.begin_block(thread_count_);
  static_shared_bytes_ = 0;
  for (Warp& warp : warps_) {
    warp.existing = warp.exited = 0;
    warp.pending_count = 0;
  }
  for (uint32_t i = 0; i < thread_count_; ++i) {
    Fiber& fiber = fibers_[i];
    fiber.copy_group = 0;
    warps_[fiber.warp].existing |= 1u << fiber.lane;
  }
  alive_ = thread_count_;
  at_barrier_ = 0;

  if (sanitizer::has_thread()) {
    const uint64_t threads = launch_->blocks() * launch_->threads_per_block();
    if (threads <= config().max_fresh_threads) renew_fibers();
    for (uint32_t i = 0; i < thread_count_; ++i) name_fiber(fibers_[i]);
  }
  ready_.reset(thread_count_);
  make_ready(0, thread_count_, [](const Fiber&) { return true; });
}

void BlockEngine::run_block(uint64_t block) {
  start_block(block);
  sanitizer::release(&block_start_edge_);
  switch_to(next_ready());
  if (alive_ != 0) order_abandoned_threads();
  sanitizer::acquire(&block_end_edge_);
  if (error_.empty() && alive_ != 0) {
    const uint3 b = block_index_;
    error_ = std::string("kernel ") + launch_->kernel_name + " block (" + std::to_string(b.x) +
             "," + std::to_string(b.y) + "," + std::to_string(b.z) + "): deadlock" +
             describe_all_threads();
  }
  if (!error_.empty()) throw DeviceError(error_);
  if (config().counts_accesses()) accesses_.end_block();
}

void BlockEngine::count_access(const void* address, size_t bytes, bool is_write, const void* site) {
  if (!config().counts_accesses()) return;
  const auto lies_in = [address](const void* bottom, size_t size) {
    const char* const begin = static_cast<const char*>(bottom);
    return address >= begin && address < begin + size;
  };
  // Registers and special registers on a GPU. The kernel's arguments are on the stack of whoever
  // launched it.
  if (lies_in(running_->stack.bottom(), running_->stack.bytes()) ||
      lies_in(main_stack_bottom_, main_stack_bytes_) ||
      lies_in(fibers_.data(), fibers_.size() * sizeof(Fiber)) ||
      lies_in(&::threadIdx, sizeof ::threadIdx) || lies_in(&::blockIdx, sizeof ::blockIdx) ||
      lies_in(&::blockDim, sizeof ::blockDim) || lies_in(&::gridDim, sizeof ::gridDim)) {
    return;
  }
  const AccessKind kind = shared_.contains(address) ? AccessKind::kShared
                          : is_write                ? AccessKind::kStore
                                                    : AccessKind::kLoad;
  accesses_.count(kind, address, bytes, site, running_->linear_index);
}

// After an error, threads that still wait will never return: what they did so far must count as
// finished before the caller frees the kernel's memory.
void BlockEngine::order_abandoned_threads() {
  if (!sanitizer::has_thread()) return;
  for (uint32_t i = 0; i < thread_count_; ++i) {
    if (fibers_[i].state == ThreadState::kExited) continue;
    __tsan_switch_to_fiber(fibers_[i].tsan_fiber, kNoHappensBefore);
    sanitizer::release(&block_end_edge_);
  }
  __tsan_switch_to_fiber(main_tsan_fiber_, kNoHappensBefore);
}

void BlockEngine::fiber_main() {
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
  BlockEngine& engine = *current_engine;
  for (;;) {  // one round per block
    Fiber& fiber = *engine.running_;
    sanitizer::acquire(&engine.block_start_edge_);
    std::string failure;
    try {
      engine.launch_->run_thread(engine.launch_->argument);
    } catch (const std::exception& error) {
      failure = std::string("exception: ") + error.what();
    } catch (...) {
      failure = "exception of unknown type";
    }
    // Outside the handler: a fiber abandoned within would leave the exception "being handled".
    if (!failure.empty()) engine.fail(failure);
    sanitizer::release(&engine.block_end_edge_);
    engine.exit_thread(fiber);
    engine.switch_to(engine.next_ready());
  }
}

void BlockEngine::exit_thread(Fiber& fiber) {
  fiber.state = ThreadState::kExited;
  --alive_;
  Warp& warp = warps_[fiber.warp];
  warp.exited |= 1u << fiber.lane;
  if (!fiber.copies.empty()) {
    fail("the thread exits without __pipeline_wait_prior for the asynchronous copy at " +
         location_text(fiber.copies.front().where));
  }
  // Others may have waited only for this thread.
  if (warp.pending_count) complete_warp_calls(warp, fiber.warp);
  release_barrier_if_complete();
}

void BlockEngine::switch_to(Fiber* target) {
  Fiber* const from = running_;
  void** const fake_stack = from ? &from->asan_fake_stack : &main_asan_fake_stack_;
  if (__sanitizer_start_switch_fiber) {
    __sanitizer_start_switch_fiber(fake_stack, target ? target->stack.bottom() : main_stack_bottom_,
                                   target ? target->stack.bytes() : main_stack_bytes_);
  }
  if (sanitizer::has_thread()) {
    __tsan_switch_to_fiber(target ? target->tsan_fiber : main_tsan_fiber_, kNoHappensBefore);
  }
  running_ = target;
  if (target) ::threadIdx = target->thread_index;
  switches_.store(switches() + 1, std::memory_order_relaxed);
  switch_context(from ? &from->stack_pointer : &main_stack_pointer_,
                 target ? target->stack_pointer : main_stack_pointer_);
  if (__sanitizer_finish_switch_fiber) {
    __sanitizer_finish_switch_fiber(*fake_stack, nullptr, nullptr);
  }
}

Fiber* BlockEngine::next_ready() {
  if (ready_.empty()) return nullptr;
  const bool shuffled = config().schedule == Schedule::kRandom;
  return &fibers_[shuffled ? ready_.pop_random(random_) : ready_.pop_oldest()];
}

void BlockEngine::run_next() {
  Fiber* next = next_ready();
  if (next != running_) switch_to(next);
}

void BlockEngine::yield() {
  ready_.push(running_->linear_index);
  run_next();
}

void BlockEngine::fail(const Fiber& culprit, const std::string& message) {
  {
    const sanitizer::IgnoreAccesses ignore;
    error_ = describe_thread(culprit) + ": " + message;
    running_->state = ThreadState::kExited;
  }
  sanitizer::release(&block_end_edge_);
  switch_to(nullptr);
  std::abort();  // never resumed: the next launch makes new fibers
}

void yield_thread() {
  BlockEngine::current().yield();
}

unsigned lane_index() {
  return BlockEngine::current().running()->lane;
}

void report_error(const std::string& message, const SourceLocation& where) {
  BlockEngine::current().fail(message + " at " + location_text(where));
}

}  // namespace facekernels::emulation
