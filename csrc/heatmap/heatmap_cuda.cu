// One launch. A warp decodes a small map, a block a large one. See heatmap.h for the maths.
#include "core/cuda_dtype.cuh"
#include "core/device.cuh"
#include "heatmap/heatmap.h"
#include "heatmap/heatmap_math.h"
#include "heatmap/simcc_math.h"

namespace facekernels::heatmap {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kPatch = 25;

// Shared values of a group: the columns of a patch, or a tile of columns of the blurred map with
// its halo; then the patch itself.
template <int kGroup>
constexpr int kTile = kGroup == 32 ? 64 : 256;
template <int kGroup>
constexpr int kColumns =
    kTile<kGroup> + 2 * kMaxRadius > 5 * (2 * kMaxRadius + 5) ? kTile<kGroup> + 2 * kMaxRadius
                                                              : 5 * (2 * kMaxRadius + 5);

template <class T>
struct Map {
  const T* data;
  int64_t stride_row;

  __device__ __forceinline__ Accumulate<T> at(int32_t y, int32_t x) const {
    return widen(data[y * stride_row + x]);
  }
};

// The threads that decode one map together.
template <class A, int kGroup>
struct Group {
  int rank;
  A* columns;  // [kColumns<kGroup>]
  A* patch;    // [kPatch]
  A* values;   // [kWarps], for a block
  int32_t* indices;

  __device__ __forceinline__ void sync() const {
    if constexpr (kGroup == 32) {
      __syncwarp(0xffffffffu);
    } else {
      __syncthreads();
    }
  }

  // Every thread gets the best peak of all.
  __device__ __forceinline__ Peak<A> combine(Peak<A> best, bool nan_wins) const {
    FK_UNROLL
    for (int offset = 16; offset > 0; offset /= 2) {
      const A value = __shfl_xor_sync(0xffffffffu, best.value, offset);
      const int32_t index = __shfl_xor_sync(0xffffffffu, best.index, offset);
      if (index != kNoIndex) offer(best, value, index, nan_wins);
    }
    if constexpr (kGroup != 32) {
      if (rank % 32 == 0) {
        values[rank / 32] = best.value;
        indices[rank / 32] = best.index;
      }
      __syncthreads();
      for (int w = 0; w < kWarps; ++w) {
        if (indices[w] != kNoIndex) offer(best, values[w], indices[w], nan_wins);
      }
      __syncthreads();
    }
    return settled(best);
  }
};

// Elements of one 16-byte load.
template <class T>
struct alignas(16) Pack {
  static constexpr int kCount = 16 / sizeof(T);
  T v[kCount];
};

// `packed`: the map is dense and made of whole, aligned packs.
template <class T, class A, int kGroup>
__device__ Peak<A> find_peak(const Group<A, kGroup>& group, const Map<T>& map, int32_t height,
                             int32_t width, bool packed, bool nan_wins) {
  Peak<A> best;
  const int32_t count = height * width;
  if (packed) {
    constexpr int kCount = Pack<T>::kCount;
    const Pack<T>* const packs = reinterpret_cast<const Pack<T>*>(map.data);
#pragma unroll 4
    for (int32_t i = group.rank; i < count / kCount; i += kGroup) {
      const Pack<T> pack = packs[i];
      FK_UNROLL
      for (int k = 0; k < kCount; ++k) offer(best, widen(pack.v[k]), i * kCount + k, nan_wins);
    }
  } else {
    for (int32_t i = group.rank; i < count; i += kGroup) {
      offer(best, map.at(i / width, i % width), i, nan_wins);
    }
  }
  return group.combine(best, nan_wins);
}

// Vertical blur of one column, possibly outside the map, at row y.
template <class T, class A>
__device__ __forceinline__ A blurred_column(const Plan<A>& plan, const Map<T>& map, int32_t y,
                                            int32_t x) {
  const int32_t column = inside(x, plan.width, plan.rule.border);
  if (column < 0) return A(0);
  return symmetric_sum<A>(plan.taps, plan.radius, [&](int t) {
    const int32_t row = inside(y + t - plan.radius, plan.height, plan.rule.border);
    return row < 0 ? A(0) : map.at(row, column);
  });
}

template <class A>
__device__ __forceinline__ A blurred_row(const Plan<A>& plan, const A* columns) {
  return symmetric_sum<A>(plan.taps, plan.radius, [&](int t) { return columns[t]; });
}

// group.patch becomes the blurred map at the kSide x kSide points around (row, column); of a 3 x 3
// patch, points outside the map take the nearest value inside it.
template <int kSide, class T, class A, int kGroup>
__device__ void blurred_patch(const Group<A, kGroup>& group, const Plan<A>& plan, const Map<T>& map,
                              int32_t row, int32_t column) {
  const int width = plan.taps_count() + kSide - 1;
  const int32_t x0 = column - kSide / 2 - plan.radius, y0 = row - kSide / 2;
  for (int i = group.rank; i < kSide * width; i += kGroup) {
    group.columns[i] = blurred_column(plan, map, y0 + i / width, x0 + i % width);
  }
  group.sync();
  if (group.rank < kSide * kSide) {
    const int point =
        kSide == 3 ? nearest_inside(group.rank, row, column, plan.height, plan.width) : group.rank;
    group.patch[group.rank] =
        blurred_row(plan, group.columns + point / kSide * width + point % kSide);
  }
  group.sync();
}

// Maximum of the blurred map, `excluded` left out. Positions count in the map with its margin.
template <class T, class A, int kGroup>
__device__ Peak<A> blurred_peak(const Group<A, kGroup>& group, const Plan<A>& plan,
                                const Map<T>& map, int32_t margin, int32_t excluded) {
  constexpr int kColumnsOfTile = kTile<kGroup>;
  Peak<A> best;
  const int32_t width = plan.width + 2 * margin;
  for (int32_t y = -margin; y < plan.height + margin; ++y) {
    for (int32_t x0 = -margin; x0 < plan.width + margin; x0 += kColumnsOfTile) {
      for (int i = group.rank; i < kColumnsOfTile + 2 * plan.radius; i += kGroup) {
        group.columns[i] = blurred_column(plan, map, y, x0 - plan.radius + i);
      }
      group.sync();
      for (int i = group.rank; i < kColumnsOfTile && x0 + i < plan.width + margin; i += kGroup) {
        const int32_t index = (y + margin) * width + x0 + i + margin;
        if (index != excluded) {
          offer(best, blurred_row(plan, group.columns + i), index, plan.rule.exact);
        }
      }
      group.sync();
    }
  }
  return group.combine(best, plan.rule.exact);
}

template <int kSide, class T, class A, int kGroup>
__device__ Offset<A> log_step(const Group<A, kGroup>& group, const Plan<A>& plan, const Map<T>& map,
                              const Joint<A>& joint) {
  blurred_patch<kSide>(group, plan, map, joint.row, joint.column);
  A factor = A(1);
  if (plan.rule.rescale && !clamps_are_idle<kSide>(plan, group.patch, joint.score)) {
    factor = joint.score / blurred_peak(group, plan, map, 0, kNoIndex).value;
  }
  group.sync();
  if (group.rank < kSide * kSide) {
    group.patch[group.rank] =
        log_clamped(group.patch[group.rank], factor, plan.clamp_low, plan.clamp_high);
  }
  group.sync();
  return kSide == 5 ? dark_step(group.patch) : udp_step(group.patch);
}

struct Maps {
  const void* data;
  int64_t count, joints, maps_per_joint;
  int64_t stride_batch, stride_map;
  bool packed;
  void* xy;
  void* score;
  bool* valid;
};

// Decisions are those of a whole group: every thread of it holds the same peak and patch.
template <class T, int kGroup>
__global__ void __launch_bounds__(kThreads, 1)
    decode_maps(const Plan<Accumulate<T>> plan, const Maps maps) {
  using A = Accumulate<T>;
  constexpr int kGroups = kThreads / kGroup;
  FK_SHARED(A, columns, [kGroups][kColumns<kGroup>]);
  FK_SHARED(A, patches, [kGroups][kPatch]);
  FK_SHARED(A, values, [kWarps]);
  FK_SHARED(int32_t, indices, [kWarps]);
  const int which = threadIdx.x / kGroup;
  const Group<A, kGroup> group{static_cast<int>(threadIdx.x) % kGroup, columns[which],
                               patches[which], values, indices};
  // A group without a joint of its own repeats the last one and writes nothing.
  const int64_t wanted = static_cast<int64_t>(blockIdx.x) * kGroups + which;
  const int64_t index = wanted < maps.count ? wanted : maps.count - 1;
  const int64_t first = index % maps.joints * maps.maps_per_joint;
  const T* const sample =
      static_cast<const T*>(maps.data) + index / maps.joints * maps.stride_batch;
  const auto map_of = [&](int64_t m) {
    return Map<T>{sample + m * maps.stride_map, plan.stride_row};
  };
  const Map<T> map = map_of(first);
  const Rule& rule = plan.rule;
  const int32_t margin = rule.refine == Refine::kSecondPeak ? plan.radius : 0;

  Peak<A> peak;
  int32_t outside = 0;  // position of the blurred maximum, counted with the margin
  if (!rule.peak_of_blurred || rule.rescale) {
    peak = find_peak(group, map, plan.height, plan.width, maps.packed, rule.exact);
  }
  if (rule.peak_of_blurred && (rule.exact || !rule.rescale || is_finite(peak.value))) {
    const Peak<A> blurred = blurred_peak(group, plan, map, margin, kNoIndex);
    outside = blurred.index;
    peak = blurred_maximum(plan, peak, blurred, margin);
  }

  const Joint<A> joint = locate(plan, peak);
  Offset<A> step;
  if (joint.refine) {
    switch (rule.refine) {
      case Refine::kNone: break;
      case Refine::kQuarter:
        if (!rule.peak_of_blurred) {
          step = quarter_step(plan, joint.column, joint.row,
                              [&](int32_t y, int32_t x) { return map.at(y, x); });
        } else {
          blurred_patch<3>(group, plan, map, joint.row, joint.column);
          step = quarter_step(plan, joint.column, joint.row, [&](int32_t y, int32_t x) {
            return group.patch[3 * (y - joint.row + 1) + x - joint.column + 1];
          });
        }
        break;
      case Refine::kDark:
        if (dark_applies(plan, joint)) step = log_step<5>(group, plan, map, joint);
        break;
      case Refine::kUdp: step = log_step<3>(group, plan, map, joint); break;
      case Refine::kSecondPeak: {
        const Peak<A> second = blurred_peak(group, plan, map, margin, outside);
        step = second_peak_step(plan, outside, second.index);
        break;
      }
      case Refine::kOffsetMaps:
        step.x = plan.offset_scale * map_of(first + 1).at(joint.row, joint.column);
        step.y = plan.offset_scale * map_of(first + 2).at(joint.row, joint.column);
        break;
    }
  } else if (rule.invalid == Invalid::kMinusOneOffset) {
    // Position (-1, -1) counts back from the joint's maps into those of the joint before.
    const int64_t before = (first + maps.joints * 3 - 3) % (maps.joints * 3);
    const int32_t at = index_before(plan), row = at / plan.width, column = at % plan.width;
    step.x = plan.offset_scale * map_of(before + 1).at(row, column);
    step.y = plan.offset_scale * map_of(before + 2).at(row, column);
  }
  if (group.rank == 0 && wanted < maps.count) {
    finish(
        plan, joint, step, [&](int32_t y, int32_t x) { return map.at(y, x); },
        static_cast<A*>(maps.xy) + 2 * index, static_cast<A*>(maps.score) + index,
        maps.valid + index);
  }
}

template <class T>
bool is_packed(const DecodeArgs& args) {
  constexpr int64_t kCount = Pack<T>::kCount;
  return reinterpret_cast<uintptr_t>(args.maps) % 16 == 0 &&
         (args.stride_row == args.width || args.height == 1) &&
         int64_t{args.height} * args.width % kCount == 0 && args.stride_batch % kCount == 0 &&
         args.stride_map % kCount == 0;
}

// ---- SimCC: a warp per joint

template <class T, class A>
__device__ __forceinline__ A blurred_line(const LinePlan<A>& plan, const T* line, int32_t length,
                                          int32_t x) {
  return symmetric_sum<A>(plan.taps, plan.radius, [&](int t) {
    const int32_t at = x + t - plan.radius;
    return at >= 0 && at < length ? widen(line[at]) : A(0);
  });
}

template <class T, class A>
__device__ LinePeak<A> decode_line(const Group<A, 32>& group, const LinePlan<A>& plan,
                                   const T* line, int32_t length) {
  const Peak<A> peak = find_peak(group, Map<T>{line, length}, 1, length, false, plan.exact);
  if (!plan.dark || !(peak.value > A(0))) return {peak.value, static_cast<A>(peak.index)};
  A patch[5];
  // The taps are few and the line is in the nearest cache: every lane computes the same patch.
  FK_UNROLL
  for (int i = 0; i < 5; ++i) {
    const int32_t at = peak.index - 2 + i;
    patch[i] = blurred_line(plan, line, length, at < 0 ? 0 : at < length ? at : length - 1);
  }
  A factor = A(1);
  if (!line_clamps_are_idle(patch, peak.value)) {
    Peak<A> best;
    for (int32_t x = group.rank; x < length; x += 32) {
      offer(best, blurred_line(plan, line, length, x), x, plan.exact);
    }
    factor = peak.value / group.combine(best, plan.exact).value;
  }
  return {peak.value, refined_bin(plan, peak.index, patch, factor)};
}

template <class T>
__global__ void __launch_bounds__(kThreads, 1)
    decode_lines(const LinePlan<Accumulate<T>> plan, const SimccArgs args) {
  using A = Accumulate<T>;
  const Group<A, 32> group{static_cast<int>(threadIdx.x) % 32, nullptr, nullptr, nullptr, nullptr};
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (index >= args.batch * args.joints) return;  // a whole warp, and no barrier of the block
  const int64_t b = index / args.joints, k = index % args.joints;
  const T* const x =
      static_cast<const T*>(args.x) + b * args.x_stride_batch + k * args.x_stride_joint;
  const T* const y =
      static_cast<const T*>(args.y) + b * args.y_stride_batch + k * args.y_stride_joint;
  const LinePeak<A> px = decode_line(group, plan, x, plan.width);
  const LinePeak<A> py = decode_line(group, plan, y, plan.height);
  if (group.rank == 0) {
    finish(plan, px, py, static_cast<A*>(args.xy) + 2 * index, static_cast<A*>(args.score) + index,
           args.valid + index);
  }
}

}  // namespace

void decode_cuda(const DecodeArgs& args, Stream stream) {
  constexpr int64_t kMapOfWarp = 4096;  // cells; above, a block reads a map
  dispatch_floating<__half, __nv_bfloat16>(args.dtype, [&]<class T>() {
    const int64_t count = args.batch * args.joints;
    const auto plan = make_plan<Accumulate<T>>(args);
    const Maps maps{args.maps,         count,           args.joints,        args.maps_per_joint,
                    args.stride_batch, args.stride_map, is_packed<T>(args), args.xy,
                    args.score,        args.valid};
    if (int64_t{args.height} * args.width <= kMapOfWarp) {
      launch("heatmap::decode_maps", blocks_for(count * 32, kThreads), kThreads, 0, stream,
             decode_maps<T, 32>, plan, maps);
    } else {
      launch("heatmap::decode_maps", blocks_for(count * kThreads, kThreads), kThreads, 0, stream,
             decode_maps<T, kThreads>, plan, maps);
    }
  });
}

void simcc_cuda(const SimccArgs& args, Stream stream) {
  dispatch_floating<__half, __nv_bfloat16>(args.dtype, [&]<class T>() {
    launch("heatmap::decode_lines", blocks_for(args.batch * args.joints * 32, kThreads), kThreads,
           0, stream, decode_lines<T>, make_plan<Accumulate<T>>(args), args);
  });
}

}  // namespace facekernels::heatmap
