#include <algorithm>
#include <cstring>
#include <vector>

#include "core/parallel.h"
#include "core/simd.h"
#include "heatmap/heatmap.h"
#include "heatmap/heatmap_math.h"
#include "heatmap/simcc_math.h"

namespace facekernels::heatmap::FK_CPU_VARIANT {
namespace {

using namespace facekernels::FK_CPU_VARIANT;

template <class T>
struct Map {
  const T* data;
  int32_t height, width;
  int64_t stride_row;

  Accumulate<T> at(int32_t y, int32_t x) const { return data[y * stride_row + x]; }
};

constexpr int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// ---- Maximum

// The maximum of a stretch; a NaN is skipped, but reported.
template <class T, class A = Accumulate<T>>
A maximum_of(const T* p, int64_t n, bool& saw_nan) {
  constexpr int kWidth = kLanes<A>;
  if (n < kWidth) {
    A best = -kInfinity<A>;
    for (int64_t i = 0; i < n; ++i) {
      const A v = p[i];
      best = maximum(best, v);
      saw_nan |= v != v;
    }
    return best;
  }
  // Independent lanes and accumulators: one comparison does not wait for the one before.
  constexpr int kChains = 4;
  Vec<A> best[kChains];
  for (auto& b : best) b = splat(-kInfinity<A>);
  Vec<IndexOf<A>> nan{};
  int64_t i = 0;
  for (; i + kChains * kWidth <= n; i += kChains * kWidth) {
    for (int c = 0; c < kChains; ++c) {
      const Vec<A> v = load(p + i + c * kWidth);
      best[c] = maximum(best[c], v);
      nan |= v != v;
    }
  }
  for (; i < n; i += kWidth) {
    // The last vector ends with the stretch: seeing an element twice does no harm.
    const Vec<A> v = load(p + std::min<int64_t>(i, n - kWidth));
    best[0] = maximum(best[0], v);
    nan |= v != v;
  }
  saw_nan |= reduce(nan, [](auto a, auto b) { return a | b; }) != 0;
  return reduce(maximum(maximum(best[0], best[1]), maximum(best[2], best[3])), maximum);
}

template <class T, class A = Accumulate<T>>
int64_t first_equal(const T* p, int64_t n, A value) {
  constexpr int kWidth = kLanes<A>;
  int64_t i = 0;
  const auto any = [](auto a, auto b) { return a | b; };
  for (; i + kWidth <= n; i += kWidth) {
    if (reduce(load(p + i) == splat(value), any)) break;
  }
  while (i < n && static_cast<A>(p[i]) != value) ++i;
  return i;
}

template <class T>
int64_t first_nan(const T* p, int64_t n) {
  int64_t i = 0;
  while (i < n && p[i] == p[i]) ++i;
  return i;
}

// First position of the maximum. Memory is read once: the position is looked up afterwards in the
// one stretch that holds the maximum, which is still in the nearest cache.
template <class T, class A = Accumulate<T>>
Peak<A> find_peak(const Map<T>& map, bool nan_wins) {
  constexpr int64_t kStretch = 4096 / sizeof(T);
  const bool flat = map.stride_row == map.width || map.height == 1;
  const int64_t length = flat ? int64_t{map.height} * map.width : map.width;
  A best = -kInfinity<A>;
  const T* stretch = map.data;
  int64_t stretch_index = 0;
  for (int32_t y = 0; y < (flat ? 1 : map.height); ++y) {
    const T* const row = map.data + y * map.stride_row;
    for (int64_t i = 0; i < length; i += kStretch) {
      bool saw_nan = false;
      const int64_t n = std::min(kStretch, length - i);
      const A v = maximum_of(row + i, n, saw_nan);
      if (saw_nan && nan_wins) {
        return {kNan<A>, static_cast<int32_t>(y * length + i + first_nan(row + i, n))};
      }
      if (v > best) {
        best = v;
        stretch = row + i;
        stretch_index = y * length + i;
      }
    }
  }
  if (best == -kInfinity<A>) {  // only NaN and -inf
    Peak<A> peak;
    for (int32_t y = 0; y < map.height; ++y) {
      for (int32_t x = 0; x < map.width; ++x) {
        offer(peak, map.at(y, x), y * map.width + x, nan_wins);
      }
    }
    return settled(peak);
  }
  const int64_t in_row = stretch_index % length;
  const int64_t n = std::min(kStretch, length - in_row);
  return {best, static_cast<int32_t>(stretch_index + first_equal(stretch, n, best))};
}

// ---- Blur

// Working memory of one thread, zero where nothing is written: loads may run past a row's end.
template <class A>
class Scratch {
 public:
  explicit Scratch(const Plan<A>& plan)
      : window_stride_(round_up(plan.taps_count() + 4, kLanes<A>) + kLanes<A>),
        line_stride_(round_up(plan.width + 4 * plan.radius, kLanes<A>) + 2 * kLanes<A>) {
    if (plan.rule.refine == Refine::kNone) return;
    if (plan.rule.refine == Refine::kQuarter && !plan.rule.peak_of_blurred) return;
    memory_.resize((plan.taps_count() + 4 + 5) * window_stride_);
  }

  A* window_row(int i) { return memory_.data() + i * window_stride_; }

  // Two lines as wide as a blurred row with its borders.
  A* line(int i) {
    lines_.resize(2 * line_stride_);
    return lines_.data() + i * line_stride_;
  }

 private:
  int64_t window_stride_, line_stride_;
  std::vector<A> memory_, lines_;
};

// `count` elements of a row from column `x0`, which may lie outside the map.
template <class T, class A = Accumulate<T>>
void copy_row(const Map<T>& map, int32_t y, int32_t x0, int32_t count, Border border, A* out) {
  const int32_t row = inside(y, map.height, border);
  if (row < 0) {
    std::fill_n(out, count, A(0));
    return;
  }
  const T* const p = map.data + row * map.stride_row;
  const int32_t first = std::clamp(-x0, 0, count);
  const int32_t last = std::clamp(map.width - x0, 0, count);
  const auto outside = [&](int32_t i) {
    const int32_t x = inside(x0 + i, map.width, border);
    out[i] = x < 0 ? A(0) : static_cast<A>(p[x]);
  };
  for (int32_t i = 0; i < first; ++i) outside(i);
  for (int32_t i = first; i < last; ++i) out[i] = static_cast<A>(p[x0 + i]);
  for (int32_t i = std::max(first, last); i < count; ++i) outside(i);
}

// The blurred map at the kSide x kSide points around (row, column), separably, from one window.
template <int kSide, class T, class A = Accumulate<T>>
void blurred_patch(const Plan<A>& plan, const Map<T>& map, int32_t row, int32_t column,
                   Scratch<A>& scratch, A* patch) {
  constexpr int kWidth = kLanes<A>;
  const int taps = plan.taps_count();
  const int side = taps + kSide - 1;
  const int32_t y0 = row - kSide / 2 - plan.radius, x0 = column - kSide / 2 - plan.radius;
  for (int i = 0; i < side; ++i) {
    copy_row(map, y0 + i, x0, side, plan.rule.border, scratch.window_row(i));
  }
  A* lines[kSide];
  for (int j = 0; j < kSide; ++j) lines[j] = scratch.window_row(side + j);
  for (int c = 0; c < side; c += kWidth) {
    for (int j = 0; j < kSide; ++j) {
      store(lines[j] + c, symmetric_sum<Vec<A>>(plan.taps, plan.radius, [&](int t) {
              return load(scratch.window_row(t + j) + c);
            }));
    }
  }
  for (int j = 0; j < kSide; ++j) {
    for (int q = 0; q < kSide; q += kWidth) {
      const Vec<A> sum = symmetric_sum<Vec<A>>(plan.taps, plan.radius,
                                               [&](int t) { return load(lines[j] + q + t); });
      for (int i = 0; i < kWidth && q + i < kSide; ++i) patch[j * kSide + q + i] = sum[i];
    }
  }
}

// Calls visit(y, values) for every row of the blurred map, from `margin` rows and columns outside
// it; values[x + margin] belongs to column x. The same arithmetic everywhere: equal inputs stay
// equal, and so keep their order.
template <class T, class Visit, class A = Accumulate<T>>
void for_each_blurred_row(const Plan<A>& plan, const Map<T>& map, int32_t margin,
                          Scratch<A>& scratch, Visit visit) {
  constexpr int kWidth = kLanes<A>;
  const Border border = plan.rule.border;
  const int32_t halo = plan.radius + margin;
  A* const sums = scratch.line(0);
  A* const out = scratch.line(1);
  for (int32_t y = -margin; y < map.height + margin; ++y) {
    A* const body = sums + halo;
    std::fill_n(body, map.width, A(0));
    for (int32_t t = 0; t <= plan.radius; ++t) {
      const int32_t above = inside(y + t - plan.radius, map.height, border);
      const int32_t below = t == plan.radius ? -1 : inside(y + plan.radius - t, map.height, border);
      if (above < 0 && below < 0) continue;
      const T* const p = map.data + (above < 0 ? below : above) * map.stride_row;
      const T* const q = above < 0 || below < 0 ? nullptr : map.data + below * map.stride_row;
      const A weight = plan.taps[t];
      if (q) {
        for (int32_t x = 0; x < map.width; ++x) {
          body[x] += weight * (static_cast<A>(p[x]) + static_cast<A>(q[x]));
        }
      } else {
        for (int32_t x = 0; x < map.width; ++x) body[x] += weight * static_cast<A>(p[x]);
      }
    }
    for (int32_t i = 1; i <= halo; ++i) {
      const int32_t left = inside(-i, map.width, border);
      const int32_t right = inside(map.width - 1 + i, map.width, border);
      body[-i] = left < 0 ? A(0) : body[left];
      body[map.width - 1 + i] = right < 0 ? A(0) : body[right];
    }
    const int32_t count = map.width + 2 * margin;
    for (int32_t x = 0; x < count; x += kWidth) {
      store(out + x, symmetric_sum<Vec<A>>(plan.taps, plan.radius,
                                           [&](int t) { return load(sums + x + t); }));
    }
    visit(y, out);
  }
}

// Maximum of the blurred map, `excluded` left out. Positions count in the map with its margin.
template <class T, class A = Accumulate<T>>
Peak<A> blurred_peak(const Plan<A>& plan, const Map<T>& map, int32_t margin, int32_t excluded,
                     Scratch<A>& scratch) {
  Peak<A> best;
  const int32_t count = map.width + 2 * margin;
  for_each_blurred_row(plan, map, margin, scratch, [&](int32_t y, A* values) {
    const int32_t start = (y + margin) * count;
    if (excluded >= start && excluded < start + count) values[excluded - start] = -kInfinity<A>;
    bool saw_nan = false;
    const A v = maximum_of(values, count, saw_nan);
    if (v > best.value || (saw_nan && plan.rule.exact)) {
      for (int32_t x = 0; x < count; ++x) offer(best, values[x], start + x, plan.rule.exact);
    }
  });
  return settled(best);
}

// The factor that scales the blurred map back to the maximum of the map.
template <class T, class A = Accumulate<T>>
A rescale_factor(const Plan<A>& plan, const Map<T>& map, A peak, Scratch<A>& scratch) {
  return peak / blurred_peak(plan, map, 0, kNoIndex, scratch).value;
}

// ---- Refinement

template <int kSide, class T, class A = Accumulate<T>>
Offset<A> log_step(const Plan<A>& plan, const Map<T>& map, const Joint<A>& joint,
                   Scratch<A>& scratch) {
  A blurred[kSide * kSide], patch[kSide * kSide];
  blurred_patch<kSide>(plan, map, joint.row, joint.column, scratch, blurred);
  for (int i = 0; i < kSide * kSide; ++i) {
    patch[i] =
        blurred[kSide == 3 ? nearest_inside(i, joint.row, joint.column, map.height, map.width) : i];
  }
  A factor = 1;
  if (plan.rule.rescale && !clamps_are_idle<kSide>(plan, patch, joint.score)) {
    factor = rescale_factor(plan, map, joint.score, scratch);
  }
  for (int i = 0; i < kSide * kSide; ++i) {
    if (kSide == 3 || dark_reads(i)) {
      patch[i] = log_clamped(patch[i], factor, plan.clamp_low, plan.clamp_high);
    }
  }
  return kSide == 5 ? dark_step(patch) : udp_step(patch);
}

template <class T, class A = Accumulate<T>>
void decode_joint(const Plan<A>& plan, const DecodeArgs& args, int64_t index, Scratch<A>& scratch) {
  const Rule& rule = plan.rule;
  const int64_t sample = index / args.joints, first = index % args.joints * args.maps_per_joint;
  const T* const maps = static_cast<const T*>(args.maps) + sample * args.stride_batch;
  const auto map_of = [&](int64_t m) {
    return Map<T>{maps + m * args.stride_map, plan.height, plan.width, plan.stride_row};
  };
  const Map<T> map = map_of(first);
  const int32_t margin = rule.refine == Refine::kSecondPeak ? plan.radius : 0;

  Peak<A> peak;
  int32_t outside = 0;  // position of the blurred maximum, counted with the margin
  if (!rule.peak_of_blurred || rule.rescale) peak = find_peak(map, rule.exact);
  if (rule.peak_of_blurred && (rule.exact || !rule.rescale || is_finite(peak.value))) {
    const Peak<A> blurred = blurred_peak(plan, map, margin, kNoIndex, scratch);
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
          A patch[9];
          blurred_patch<3>(plan, map, joint.row, joint.column, scratch, patch);
          step = quarter_step(plan, joint.column, joint.row, [&](int32_t y, int32_t x) {
            return patch[3 * (y - joint.row + 1) + x - joint.column + 1];
          });
        }
        break;
      case Refine::kDark:
        if (dark_applies(plan, joint)) step = log_step<5>(plan, map, joint, scratch);
        break;
      case Refine::kUdp: step = log_step<3>(plan, map, joint, scratch); break;
      case Refine::kSecondPeak: {
        const Peak<A> second = blurred_peak(plan, map, margin, outside, scratch);
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
    const int64_t before = (first + args.joints * 3 - 3) % (args.joints * 3);
    const int32_t at = index_before(plan), row = at / plan.width, column = at % plan.width;
    step.x = plan.offset_scale * map_of(before + 1).at(row, column);
    step.y = plan.offset_scale * map_of(before + 2).at(row, column);
  }
  finish(
      plan, joint, step, [&](int32_t y, int32_t x) { return map.at(y, x); },
      static_cast<A*>(args.xy) + 2 * index, static_cast<A*>(args.score) + index,
      args.valid + index);
}

template <class T>
void decode(const DecodeArgs& args) {
  using A = Accumulate<T>;
  const Plan<A> plan = make_plan<A>(args);
  const int64_t cost = int64_t{args.height} * args.width;
  parallel_for(args.batch * args.joints, cost, [&](int64_t begin, int64_t end) {
    Scratch<A> scratch(plan);
    for (int64_t i = begin; i < end; ++i) decode_joint<T>(plan, args, i, scratch);
  });
}

// ---- SimCC

template <class T, class A = Accumulate<T>>
LinePeak<A> decode_line(const LinePlan<A>& plan, const T* line, int32_t length) {
  const Peak<A> peak = find_peak(Map<T>{line, 1, length, length}, plan.exact);
  if (!plan.dark || !(peak.value > A(0))) return {peak.value, static_cast<A>(peak.index)};
  const auto blurred = [&](int32_t x) {
    return symmetric_sum<A>(plan.taps, plan.radius, [&](int t) {
      const int32_t at = x + t - plan.radius;
      return at >= 0 && at < length ? static_cast<A>(line[at]) : A(0);
    });
  };
  A patch[5];
  for (int i = 0; i < 5; ++i) patch[i] = blurred(std::clamp(peak.index - 2 + i, 0, length - 1));
  A factor = 1;
  if (!line_clamps_are_idle(patch, peak.value)) {
    Peak<A> best;
    for (int32_t x = 0; x < length; ++x) offer(best, blurred(x), x, plan.exact);
    factor = peak.value / best.value;
  }
  return {peak.value, refined_bin(plan, peak.index, patch, factor)};
}

template <class T>
void simcc(const SimccArgs& args) {
  using A = Accumulate<T>;
  const LinePlan<A> plan = make_plan<A>(args);
  parallel_for(args.batch * args.joints, args.width + args.height, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / args.joints, k = i % args.joints;
      const T* x =
          static_cast<const T*>(args.x) + b * args.x_stride_batch + k * args.x_stride_joint;
      const T* y =
          static_cast<const T*>(args.y) + b * args.y_stride_batch + k * args.y_stride_joint;
      finish(plan, decode_line(plan, x, args.width), decode_line(plan, y, args.height),
             static_cast<A*>(args.xy) + 2 * i, static_cast<A*>(args.score) + i, args.valid + i);
    }
  });
}

}  // namespace

void decode_cpu(const DecodeArgs& args) {
  dispatch_floating<Half, BFloat16>(args.dtype, [&]<class T>() { decode<T>(args); });
}

void simcc_cpu(const SimccArgs& args) {
  dispatch_floating<Half, BFloat16>(args.dtype, [&]<class T>() { simcc<T>(args); });
}

}  // namespace facekernels::heatmap::FK_CPU_VARIANT
