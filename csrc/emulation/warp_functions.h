// Shuffles, votes, matches and reductions over the lanes of a mask. Source lanes follow the PTX
// ISA's description of shfl.sync. None of these orders memory; only __syncwarp does.
#pragma once

#include <cstring>
#include <functional>
#include <type_traits>

#include "half_types.h"
#include "runtime.h"

namespace facekernels::emulation {

// The types that nvcc accepts, so that emulated code cannot use more.
template <class T>
inline constexpr bool kIsShuffleType =
    std::is_same_v<T, int> || std::is_same_v<T, unsigned> || std::is_same_v<T, long> ||
    std::is_same_v<T, unsigned long> || std::is_same_v<T, long long> ||
    std::is_same_v<T, unsigned long long> || std::is_same_v<T, float> ||
    std::is_same_v<T, double> || std::is_same_v<T, __half> || std::is_same_v<T, __half2> ||
    std::is_same_v<T, __nv_bfloat16> || std::is_same_v<T, __nv_bfloat162>;

template <class T>
inline constexpr bool kIsMatchType =
    std::is_same_v<T, int> || std::is_same_v<T, unsigned> || std::is_same_v<T, long> ||
    std::is_same_v<T, unsigned long> || std::is_same_v<T, long long> ||
    std::is_same_v<T, unsigned long long> || std::is_same_v<T, float> || std::is_same_v<T, double>;

inline void combine_shuffle(LaneData* const lanes[kLanes], uint32_t, unsigned bytes) {
  for (unsigned l = 0; l < kLanes; ++l) {
    if (!lanes[l]) continue;
    const LaneData* source = lanes[lanes[l]->source_lane];
    if (source) {
      std::memcpy(lanes[l]->output, source->input, bytes);
    } else {
      std::memset(lanes[l]->output, 0xFF, bytes);  // undefined on a GPU: NaN or -1 here
    }
  }
}

template <class T>
T shuffle(uint32_t mask, T value, int source_lane, const SourceLocation& where) {
  static_assert(kIsShuffleType<T>, "CUDA has no __shfl_*_sync for this type");
  T result;
  warp_collective({.operation = Operation::kShuffle,
                   .mask = mask,
                   .input = &value,
                   .input_bytes = sizeof(T),
                   .output = &result,
                   .output_bytes = sizeof(T),
                   .combine = combine_shuffle,
                   .source_lane = source_lane},
                  where);
  return result;
}

// `lanes`: the lanes whose predicate holds; `participants`: all that took part.
struct VoteResult {
  uint32_t lanes;
  uint32_t participants;
};

inline void combine_vote(LaneData* const lanes[kLanes], uint32_t participants, unsigned) {
  VoteResult result{0, participants};
  for (unsigned l = 0; l < kLanes; ++l) {
    if (lanes[l] && lanes[l]->input[0]) result.lanes |= 1u << l;
  }
  for (unsigned l = 0; l < kLanes; ++l) {
    if (lanes[l]) std::memcpy(lanes[l]->output, &result, sizeof result);
  }
}

inline VoteResult vote(Operation operation, uint32_t mask, int predicate,
                       const SourceLocation& where) {
  const unsigned char holds = predicate != 0;
  VoteResult result;
  warp_collective({.operation = operation,
                   .mask = mask,
                   .input = &holds,
                   .input_bytes = 1,
                   .output = &result,
                   .output_bytes = sizeof result,
                   .combine = combine_vote},
                  where);
  return result;
}

// For each lane: `lanes` = those that hold the same bits.
inline void combine_match(LaneData* const lanes[kLanes], uint32_t participants, unsigned bytes) {
  for (unsigned l = 0; l < kLanes; ++l) {
    if (!lanes[l]) continue;
    VoteResult result{0, participants};
    for (unsigned other = 0; other < kLanes; ++other) {
      if (lanes[other] && std::memcmp(lanes[l]->input, lanes[other]->input, bytes) == 0) {
        result.lanes |= 1u << other;
      }
    }
    std::memcpy(lanes[l]->output, &result, sizeof result);
  }
}

template <class T>
VoteResult match(Operation operation, uint32_t mask, T value, const SourceLocation& where) {
  static_assert(kIsMatchType<T>, "CUDA has no __match_*_sync for this type");
  VoteResult result;
  warp_collective({.operation = operation,
                   .mask = mask,
                   .input = &value,
                   .input_bytes = sizeof(T),
                   .output = &result,
                   .output_bytes = sizeof result,
                   .combine = combine_match},
                  where);
  return result;
}

template <class T, class Function>
void combine_reduce(LaneData* const lanes[kLanes], uint32_t, unsigned) {
  bool first = true;
  T total{};
  for (unsigned l = 0; l < kLanes; ++l) {
    if (!lanes[l]) continue;
    T value;
    std::memcpy(&value, lanes[l]->input, sizeof(T));
    total = first ? value : Function{}(total, value);
    first = false;
  }
  for (unsigned l = 0; l < kLanes; ++l) {
    if (lanes[l]) std::memcpy(lanes[l]->output, &total, sizeof(T));
  }
}

template <class Function, class T>
T reduce(uint32_t mask, T value, const SourceLocation& where) {
  T result;
  warp_collective({.operation = Operation::kReduce,
                   .mask = mask,
                   .input = &value,
                   .input_bytes = sizeof(T),
                   .output = &result,
                   .output_bytes = sizeof(T),
                   .combine = combine_reduce<T, Function>},
                  where);
  return result;
}

struct Minimum {
  template <class T>
  T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};

struct Maximum {
  template <class T>
  T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};

}  // namespace facekernels::emulation

inline void __syncwarp(unsigned mask = 0xffffffffu, FK_EMU_HERE) {
  using namespace facekernels::emulation;
  warp_collective({.operation = Operation::kSyncWarp, .mask = mask}, fk_emu_location);
}

// Which lanes have converged is not modelled, so any answer would be a guess: pass masks instead.
unsigned __activemask() = delete;

// ---------------------------------------------------------------------------- shuffles

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize, FK_EMU_HERE) {
  const int lane = static_cast<int>(facekernels::emulation::lane_index());
  const int segment_start = lane & ~(width - 1);
  return facekernels::emulation::shuffle(mask, value, segment_start | (source & (width - 1)),
                                         fk_emu_location);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize, FK_EMU_HERE) {
  const int lane = static_cast<int>(facekernels::emulation::lane_index());
  const int segment_start = lane & ~(width - 1);
  const int source = lane - static_cast<int>(delta & 31);
  return facekernels::emulation::shuffle(mask, value, source < segment_start ? lane : source,
                                         fk_emu_location);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize, FK_EMU_HERE) {
  const int lane = static_cast<int>(facekernels::emulation::lane_index());
  const int segment_end = lane | (width - 1);
  const int source = lane + static_cast<int>(delta & 31);
  return facekernels::emulation::shuffle(mask, value, source > segment_end ? lane : source,
                                         fk_emu_location);
}

// A lane may read a lower segment than its own, but not a higher one.
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = warpSize, FK_EMU_HERE) {
  const int lane = static_cast<int>(facekernels::emulation::lane_index());
  const int segment_end = lane | (width - 1);
  const int source = lane ^ (lane_mask & 31);
  return facekernels::emulation::shuffle(mask, value, source > segment_end ? lane : source,
                                         fk_emu_location);
}

// ------------------------------------------------------------------- votes and matches

inline unsigned __ballot_sync(unsigned mask, int predicate, FK_EMU_HERE) {
  using namespace facekernels::emulation;
  return vote(Operation::kBallot, mask, predicate, fk_emu_location).lanes;
}

inline int __any_sync(unsigned mask, int predicate, FK_EMU_HERE) {
  using namespace facekernels::emulation;
  return vote(Operation::kAny, mask, predicate, fk_emu_location).lanes != 0;
}

inline int __all_sync(unsigned mask, int predicate, FK_EMU_HERE) {
  using namespace facekernels::emulation;
  const VoteResult result = vote(Operation::kAll, mask, predicate, fk_emu_location);
  return result.lanes == result.participants;
}

template <class T>
unsigned __match_any_sync(unsigned mask, T value, FK_EMU_HERE) {
  using namespace facekernels::emulation;
  return match(Operation::kMatchAny, mask, value, fk_emu_location).lanes;
}

template <class T>
unsigned __match_all_sync(unsigned mask, T value, int* predicate, FK_EMU_HERE) {
  using namespace facekernels::emulation;
  const VoteResult result = match(Operation::kMatchAll, mask, value, fk_emu_location);
  *predicate = result.lanes == result.participants;
  return *predicate ? result.lanes : 0;
}

// -------------------------------------------------------------------------- reductions

#define FK_EMU_REDUCTION(name, T, Function)                                        \
  inline T name(unsigned mask, T value, FK_EMU_HERE) {                             \
    return facekernels::emulation::reduce<Function>(mask, value, fk_emu_location); \
  }

FK_EMU_REDUCTION(__reduce_add_sync, unsigned, std::plus<>)
FK_EMU_REDUCTION(__reduce_min_sync, unsigned, facekernels::emulation::Minimum)
FK_EMU_REDUCTION(__reduce_min_sync, int, facekernels::emulation::Minimum)
FK_EMU_REDUCTION(__reduce_max_sync, unsigned, facekernels::emulation::Maximum)
FK_EMU_REDUCTION(__reduce_max_sync, int, facekernels::emulation::Maximum)
FK_EMU_REDUCTION(__reduce_and_sync, unsigned, std::bit_and<>)
FK_EMU_REDUCTION(__reduce_or_sync, unsigned, std::bit_or<>)
FK_EMU_REDUCTION(__reduce_xor_sync, unsigned, std::bit_xor<>)
#undef FK_EMU_REDUCTION

// Through unsigned: a sum that wraps is defined on the GPU.
inline int __reduce_add_sync(unsigned mask, int value, FK_EMU_HERE) {
  const unsigned sum = __reduce_add_sync(mask, static_cast<unsigned>(value), fk_emu_location);
  return static_cast<int>(sum);
}
