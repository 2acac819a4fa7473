// Per-map maths of the decoders, shared by the CPU and CUDA kernels.
#pragma once

#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "core/host_device.h"
#include "heatmap/heatmap.h"

namespace facekernels::heatmap {

// What a kernel needs to know, in the accumulator type A. Made once per call, on the host.
template <class A>
struct Plan {
  Rule rule;
  int32_t height, width;
  int64_t stride_row;
  A threshold, invalid_x, invalid_y, offset_scale;
  bool clamp;
  int32_t radius;
  A taps[2 * kMaxRadius + 1];  // the Gaussian, summing to 1
  A clamp_low, clamp_high;     // of the blurred map before the logarithm

  FK_HOST_DEVICE int32_t taps_count() const { return 2 * radius + 1; }
};

// OpenCV's Gaussian for a kernel size: small sizes are tabulated there, in 64ths and 256ths.
inline void fill_taps(int kernel, bool scipy_sigma, double* taps) {
  static constexpr double kTable[4][9] = {{16, 32, 16},
                                          {4, 16, 24, 16, 4},
                                          {2, 7, 14, 18, 14, 7, 2},
                                          {1, 3.25, 7.5, 12.75, 15, 12.75, 7.5, 3.25, 1}};
  const int radius = kernel / 2;
  const bool tabulated = !scipy_sigma && radius >= 1 && radius <= 4;
  const double sigma = scipy_sigma ? 0.8 : 0.3 * (radius - 1) + 0.8;
  double sum = 0;
  for (int i = 0; i < kernel; ++i) {
    const double d = i - radius;
    taps[i] = tabulated ? kTable[radius - 1][i] : std::exp(-d * d / (2 * sigma * sigma));
    sum += taps[i];
  }
  for (int i = 0; i < kernel; ++i) taps[i] /= sum;
}

// Returns the radius.
template <class A>
int32_t set_taps(A* taps, int kernel, bool scipy_sigma) {
  if (kernel < 1 || kernel % 2 == 0 || kernel > 2 * kMaxRadius + 1) {
    throw std::invalid_argument("the blur must have an odd number of 1 to 65 taps, got " +
                                std::to_string(kernel));
  }
  double exact[2 * kMaxRadius + 1];
  fill_taps(kernel, scipy_sigma, exact);
  for (int i = 0; i < kernel; ++i) taps[i] = static_cast<A>(exact[i]);
  return kernel / 2;
}

template <class A>
Plan<A> make_plan(const DecodeArgs& args) {
  Plan<A> plan{};
  plan.rule = rule_of(args.method, args.compat);
  plan.height = args.height;
  plan.width = args.width;
  plan.stride_row = args.stride_row;
  plan.threshold = static_cast<A>(args.threshold);
  plan.invalid_x = static_cast<A>(args.invalid_x);
  plan.invalid_y = static_cast<A>(args.invalid_y);
  plan.offset_scale = static_cast<A>(args.offset_scale);
  plan.clamp = args.clamp;
  const bool dark = plan.rule.refine == Refine::kDark;
  plan.clamp_low = static_cast<A>(dark ? 1e-10 : 1e-3);
  plan.clamp_high = dark ? std::numeric_limits<A>::infinity() : A(50);
  const int kernel = plan.rule.wide_kernel ? 2 * args.kernel + 1 : args.kernel;
  plan.radius = set_taps(plan.taps, kernel, plan.rule.scipy_sigma);
  return plan;
}

inline constexpr int32_t kNoIndex = 0x7fffffff;
template <class A>
inline constexpr A kInfinity = std::numeric_limits<A>::infinity();
template <class A>
inline constexpr A kNan = std::numeric_limits<A>::quiet_NaN();

template <class A>
struct Peak {
  A value = -kInfinity<A>;
  int32_t index = kNoIndex;
};

// Equal values keep the lower index. A NaN loses against every number, or, as in NumPy, wins.
template <class A>
FK_HOST_DEVICE inline void offer(Peak<A>& best, A value, int32_t index, bool nan_wins) {
  const bool greater = value > best.value || (value == best.value && index < best.index);
  const bool is_nan = value != value;
  if (greater || (nan_wins && is_nan && (best.value == best.value || index < best.index))) {
    best.value = value;
    best.index = index;
  }
}

// A map of nothing but NaN has its maximum nowhere.
template <class A>
FK_HOST_DEVICE inline Peak<A> settled(Peak<A> best) {
  if (best.index == kNoIndex) {
    best.value = kNan<A>;
    best.index = 0;
  }
  return best;
}

// Position inside [0, size) that stands for `i`, or -1 where the border is zero.
FK_HOST_DEVICE inline int32_t inside(int32_t i, int32_t size, Border border) {
  if (i >= 0 && i < size) return i;
  if (border == Border::kZero) return -1;
  if (size == 1) return 0;
  const int32_t period = border == Border::kReflect ? 2 * size : 2 * size - 2;
  i %= period;
  if (i < 0) i += period;
  return i < size ? i : (border == Border::kReflect ? period - 1 - i : period - i);
}

template <class A>
struct Offset {
  A x = 0;
  A y = 0;
};

FK_HOST_DEVICE inline float multiply_add(float a, float b, float c) {
  return fmaf(a, b, c);
}
FK_HOST_DEVICE inline double multiply_add(double a, double b, double c) {
  return fma(a, b, c);
}

// a b - c d without the cancellation of two rounded products.
template <class A>
FK_HOST_DEVICE inline A difference_of_products(A a, A b, A c, A d) {
  const A cd = c * d;
  return multiply_add(a, b, -cd) + multiply_add(-c, d, cd);
}

// sum over the taps of a(t), the t-th of the values under the kernel. Values at equal distance from
// the centre are added first: a symmetric map has a symmetric blur, to the last bit.
template <class Value, class A, class At>
FK_HOST_DEVICE inline Value symmetric_sum(const A* taps, int radius, At at) {
  Value sum = taps[radius] * at(radius);
  for (int t = 0; t < radius; ++t) sum += taps[t] * (at(t) + at(2 * radius - t));
  return sum;
}

// - H^-1 g
template <class A>
FK_HOST_DEVICE inline Offset<A> newton_step(A dx, A dy, A dxx, A dxy, A dyy, A det) {
  return {-difference_of_products(dyy, dx, dxy, dy) / det,
          -difference_of_products(dxx, dy, dxy, dx) / det};
}

// p[5 * (2 + j) + 2 + i] = log of the blurred map at (x + i, y + j); the corners are not read.
template <class A>
FK_HOST_DEVICE inline Offset<A> dark_step(const A* p) {
  const A dx = A(0.5) * (p[13] - p[11]), dy = A(0.5) * (p[17] - p[7]);
  const A dxx = A(0.25) * (p[14] - 2 * p[12] + p[10]);
  const A dyy = A(0.25) * (p[22] - 2 * p[12] + p[2]);
  const A dxy = A(0.25) * (p[18] - p[8] - p[16] + p[6]);
  const A det = difference_of_products(dxx, dyy, dxy, dxy);
  if (det == A(0)) return {};
  return newton_step(dx, dy, dxx, dxy, dyy, det);
}

// p[3 * (1 + j) + 1 + i], likewise. The epsilon of float32 keeps a flat map's Hessian invertible.
template <class A>
FK_HOST_DEVICE inline Offset<A> udp_step(const A* p) {
  const A epsilon = A(1.1920928955078125e-7);
  const A dx = A(0.5) * (p[5] - p[3]), dy = A(0.5) * (p[7] - p[1]);
  const A dxx = p[5] - 2 * p[4] + p[3] + epsilon, dyy = p[7] - 2 * p[4] + p[1] + epsilon;
  const A dxy = A(0.5) * (p[8] - p[5] - p[7] + 2 * p[4] - p[3] - p[1] + p[0]);
  return newton_step(dx, dy, dxx, dxy, dyy, difference_of_products(dxx, dyy, dxy, dxy));
}

// The corners of the 5 x 5 patch that DARK never reads.
FK_HOST_DEVICE inline bool dark_reads(int i) {
  const int row = i / 5, column = i % 5;
  return (row > 0 && row < 4 && column > 0 && column < 4) || row == 2 || column == 2;
}

// Points of a 3 x 3 patch outside the map take the nearest value inside it.
FK_HOST_DEVICE inline int nearest_inside(int i, int32_t row, int32_t column, int32_t height,
                                         int32_t width) {
  int j = i / 3, q = i % 3;
  if (j == 0 && row == 0) j = 1;
  if (j == 2 && row == height - 1) j = 1;
  if (q == 0 && column == 0) q = 1;
  if (q == 2 && column == width - 1) q = 1;
  return 3 * j + q;
}

// Whether no clamp before the logarithm can act on the `count` values of a blurred patch. `peak` is
// the maximum of the map itself. The factor is at least 1 and takes no value above `peak`, so none
// can when all values exceed the lower clamp already. `reads(i)`: the step looks at value i.
template <class A, class Reads>
FK_HOST_DEVICE inline bool clamps_are_idle(const A* patch, int count, A peak, A low, A high,
                                           Reads reads) {
  if (!(peak <= high)) return false;
  for (int i = 0; i < count; ++i) {
    if (reads(i) && !(patch[i] >= low)) return false;
  }
  return true;
}

template <int kSide, class A>
FK_HOST_DEVICE inline bool clamps_are_idle(const Plan<A>& plan, const A* patch, A peak) {
  return clamps_are_idle(patch, kSide * kSide, peak, plan.clamp_low, plan.clamp_high,
                         [](int i) { return kSide == 3 || dark_reads(i); });
}

// log of a blurred value, scaled and clamped; a NaN stays one.
template <class A>
FK_HOST_DEVICE inline A log_clamped(A value, A factor, A low, A high) {
  A v = value * factor;
  v = v < low ? low : v;
  v = v > high ? high : v;
  return std::log(v);
}

// A quarter pixel in the direction of d; a NaN stays one.
template <class A>
FK_HOST_DEVICE inline A quarter(A d) {
  return d > A(0) ? A(0.25) : d < A(0) ? A(-0.25) : A(0.25) * d;
}

// `at(y, x)` reads the map in which the peak was found.
template <class A, class Read>
FK_HOST_DEVICE inline Offset<A> quarter_step(const Plan<A>& plan, int32_t x, int32_t y, Read at) {
  const Rule& rule = plan.rule;
  const bool x_inside = rule.low < x && x < plan.width - 1 && x < rule.high;
  const bool y_inside = rule.low < y && y < plan.height - 1 && y < rule.high;
  // Where the axes are independent the other coordinate only has to be off the border.
  const bool do_x = x_inside && (rule.axes_together ? y_inside : 0 < y && y < plan.height);
  const bool do_y = y_inside && (rule.axes_together ? x_inside : 0 < x && x < plan.width);
  Offset<A> step;
  if (do_x) step.x = quarter(at(y, x + 1) - at(y, x - 1));
  if (do_y) step.y = quarter(at(y + 1, x) - at(y - 1, x));
  if (rule.half_pixel == HalfPixel::kWhereRefined && do_x && do_y) {
    step.x += A(0.5);
    step.y += A(0.5);
  }
  return step;
}

// From the first to the second maximum; both positions count in the map with its margin.
template <class A>
FK_HOST_DEVICE inline Offset<A> second_peak_step(const Plan<A>& plan, int32_t first,
                                                 int32_t second) {
  const int32_t width = plan.width + 2 * plan.radius;
  const A dx = static_cast<A>(second % width - first % width);
  const A dy = static_cast<A>(second / width - first / width);
  const A length = std::sqrt(dx * dx + dy * dy);
  if (!(length > A(0))) return {};
  return {A(0.25) * dx / length, A(0.25) * dy / length};
}

// Where the maximum of the blurred map lies, and what it counts. `raw` is the map's own maximum;
// a blurred position counts in the map with its margin, which may put it outside the map.
template <class A>
FK_HOST_DEVICE inline Peak<A> blurred_maximum(const Plan<A>& plan, Peak<A> raw, Peak<A> blurred,
                                              int32_t margin) {
  const int32_t width = plan.width + 2 * margin;
  int32_t x = blurred.index % width - margin, y = blurred.index / width - margin;
  x = x < 0 ? 0 : x >= plan.width ? plan.width - 1 : x;
  y = y < 0 ? 0 : y >= plan.height ? plan.height - 1 : y;
  Peak<A> peak{blurred.value, y * plan.width + x};
  if (plan.rule.rescale) {
    // Scaled, the maximum is the old one again, or all of the map is NaN (0 / 0, inf / inf).
    peak.value = raw.value / blurred.value * blurred.value;
    if (peak.value != peak.value) {
      peak.index = plan.rule.exact ? 0 : raw.index;
      if (!plan.rule.exact) peak.value = raw.value;
    }
  }
  return peak;
}

// Position (-1, -1) in flat memory: near the end of the map before.
template <class A>
FK_HOST_DEVICE inline int32_t index_before(const Plan<A>& plan) {
  const int32_t index = plan.height * plan.width - plan.width - 1;
  return index < 0 ? 0 : index;
}

// A joint on its way from maximum to result.
template <class A>
struct Joint {
  A x, y;
  A score;
  int32_t column, row;  // of the maximum
  bool positive;        // the maximum is above 0
  bool refine;
};

template <class A>
FK_HOST_DEVICE inline bool is_finite(A v) {
  return v - v == A(0);
}

template <class A>
FK_HOST_DEVICE inline Joint<A> locate(const Plan<A>& plan, Peak<A> peak) {
  const Rule& rule = plan.rule;
  Joint<A> j;
  j.column = peak.index % plan.width;
  j.row = peak.index / (rule.row_by_height ? plan.height : plan.width);
  j.score = peak.value;
  j.positive = peak.value > A(0);
  bool at_peak = j.positive;
  switch (rule.invalid) {
    case Invalid::kPeak: at_peak = true; break;
    case Invalid::kMinusOne:
    case Invalid::kMinusOneOffset:
    case Invalid::kNan: at_peak = !(peak.value <= A(0)); break;
    default: break;
  }
  j.refine = at_peak;
  j.x = static_cast<A>(j.column);
  j.y = static_cast<A>(j.row);
  if (at_peak) {
    // Around an infinite maximum there is nothing to compare.
    if (!rule.exact) j.refine = is_finite(peak.value);
    return j;
  }
  A value = A(0);
  switch (rule.invalid) {
    case Invalid::kMinusOne:
    case Invalid::kMinusOneOrNan:
    case Invalid::kMinusOneOffset: value = A(-1); break;
    case Invalid::kNan: value = kNan<A>; break;
    default: break;
  }
  j.x = j.y = value;
  if (rule.invalid == Invalid::kOriginRefined) {
    j.column = j.row = 0;
    j.refine = true;
  }
  return j;
}

// DARK needs two pixels on each side.
template <class A>
FK_HOST_DEVICE inline bool dark_applies(const Plan<A>& plan, const Joint<A>& joint) {
  return 1 < joint.column && joint.column < plan.width - 2 && 1 < joint.row &&
         joint.row < plan.height - 2;
}

template <class A>
FK_HOST_DEVICE inline A limited(A v, A low, A high) {
  return v < low ? low : v > high ? high : v;
}

// Adds the offset and applies the contract. `read(row, column)` reads the map itself.
template <class A, class Read>
FK_HOST_DEVICE inline void finish(const Plan<A>& plan, const Joint<A>& joint, Offset<A> step,
                                  Read read, A* xy, A* score, bool* valid) {
  const Rule& rule = plan.rule;
  const A right = static_cast<A>(plan.width - 1), bottom = static_cast<A>(plan.height - 1);
  A x = joint.x, y = joint.y, s = joint.score;
  if (!rule.exact) {
    // An offset map reaches as far as its disc, every other refinement stays within a pixel.
    const A reach = rule.refine == Refine::kOffsetMaps ? plan.offset_scale : A(1);
    step.x = is_finite(step.x) ? limited(step.x, -reach, reach) : A(0);
    step.y = is_finite(step.y) ? limited(step.y, -reach, reach) : A(0);
  }
  x += step.x;
  y += step.y;
  if (rule.refine == Refine::kSecondPeak) {
    // The score is that of the map at the refined point, rounded.
    x = limited(x, A(0), right);
    y = limited(y, A(0), bottom);
    const bool somewhere = x == x && y == y;
    s = somewhere ? read(static_cast<int32_t>(std::rint(y)), static_cast<int32_t>(std::rint(x)))
                  : s;
  }
  if (rule.half_pixel == HalfPixel::kAlways) {
    x += A(0.5);
    y += A(0.5);
  }
  if (rule.score_of_255) s = s / A(255) + A(0.5);
  const bool ok = joint.positive && s > plan.threshold;
  if (!rule.exact) {
    if (!ok) {
      x = plan.invalid_x;
      y = plan.invalid_y;
    } else if (plan.clamp) {
      x = limited(x, A(0), right);
      y = limited(y, A(0), bottom);
    }
  }
  xy[0] = x;
  xy[1] = y;
  *score = s;
  *valid = ok;
}

}  // namespace facekernels::heatmap
