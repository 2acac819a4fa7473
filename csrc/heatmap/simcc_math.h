// Per-line maths of SimCC, where a joint is two one-dimensional maps.
#pragma once

#include "heatmap/heatmap_math.h"

namespace facekernels::heatmap {

template <class A>
struct LinePlan {
  bool dark, exact, clamp;
  int32_t width, height;  // bins
  A split, threshold, invalid_x, invalid_y;
  int32_t radius;
  A taps[2 * kMaxRadius + 1];

  FK_HOST_DEVICE int32_t taps_count() const { return 2 * radius + 1; }
};

template <class A>
LinePlan<A> make_plan(const SimccArgs& args) {
  LinePlan<A> plan{};
  plan.dark = args.dark;
  plan.exact = args.exact;
  plan.clamp = args.clamp;
  plan.width = args.width;
  plan.height = args.height;
  plan.split = static_cast<A>(args.split);
  plan.threshold = static_cast<A>(args.threshold);
  plan.invalid_x = static_cast<A>(args.invalid_x);
  plan.invalid_y = static_cast<A>(args.invalid_y);
  plan.radius = set_taps(plan.taps, args.kernel, false);
  return plan;
}

template <class A>
inline constexpr A kLineLow = A(1e-3);
template <class A>
inline constexpr A kLineHigh = A(50);

// The maximum of a line and the refined bin.
template <class A>
struct LinePeak {
  A value;
  A bin;
};

// patch[2 + i] = blurred line at the maximum + i.
template <class A>
FK_HOST_DEVICE inline bool line_clamps_are_idle(const A* patch, A peak) {
  return clamps_are_idle(patch, 5, peak, kLineLow<A>, kLineHigh<A>, [](int) { return true; });
}

template <class A>
FK_HOST_DEVICE inline A refined_bin(const LinePlan<A>& plan, int32_t bin, A* patch, A factor) {
  for (int i = 0; i < 5; ++i) {
    patch[i] = log_clamped(patch[i], factor, kLineLow<A>, kLineHigh<A>);
  }
  const A slope = A(0.5) * (patch[3] - patch[1]);
  const A curvature = A(1e-9) + A(0.25) * (patch[4] - 2 * patch[2] + patch[0]);
  A step = -slope / curvature;
  if (!plan.exact) step = is_finite(step) ? limited(step, A(-1), A(1)) : A(0);
  return static_cast<A>(bin) + step;
}

template <class A>
FK_HOST_DEVICE inline void finish(const LinePlan<A>& plan, LinePeak<A> px, LinePeak<A> py, A* xy,
                                  A* score, bool* valid) {
  const A s = px.value > py.value ? py.value : px.value;
  const bool ok = px.value > A(0) && py.value > A(0) && s > plan.threshold;
  A x = px.bin, y = py.bin;
  if (plan.exact) {
    // The peer divides its (-1, -1) too; refined, a line of zeros is 0 / 0 everywhere.
    if (s <= A(0)) x = y = plan.dark ? kNan<A> : A(-1);
    x /= plan.split;
    y /= plan.split;
  } else if (ok) {
    if (plan.clamp) {
      x = limited(x, A(0), static_cast<A>(plan.width - 1));
      y = limited(y, A(0), static_cast<A>(plan.height - 1));
    }
    x /= plan.split;
    y /= plan.split;
  } else {
    x = plan.invalid_x;
    y = plan.invalid_y;
  }
  xy[0] = x;
  xy[1] = y;
  *score = s;
  *valid = ok;
}

}  // namespace facekernels::heatmap
