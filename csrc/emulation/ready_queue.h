// The threads of a block that could run now.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace facekernels::emulation {

// xorshift64: reproducible and fast; nothing here needs better.
class RandomNumbers {
 public:
  void seed(uint64_t seed) { state_ = (seed + 1) * 0x9E3779B97F4A7C15ull | 1; }
  uint64_t next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_;
  }

 private:
  uint64_t state_ = 1;
};

class ReadyQueue {
 public:
  void reset(size_t capacity) {
    if (ring_.size() < capacity) ring_.resize(capacity);
    head_ = count_ = 0;
  }
  bool empty() const { return count_ == 0; }
  void push(uint32_t thread) {
    ring_[wrap(head_ + count_)] = thread;
    ++count_;
  }
  uint32_t pop_oldest() {
    const uint32_t thread = ring_[head_];
    head_ = wrap(head_ + 1);
    --count_;
    return thread;
  }
  uint32_t pop_random(RandomNumbers& random) {
    std::swap(ring_[head_], ring_[wrap(head_ + random.next() % count_)]);
    return pop_oldest();
  }

 private:
  size_t wrap(size_t position) const {
    return position < ring_.size() ? position : position - ring_.size();
  }

  std::vector<uint32_t> ring_;
  size_t head_ = 0;
  size_t count_ = 0;
};

}  // namespace facekernels::emulation
