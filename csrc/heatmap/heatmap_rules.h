// Every decoder as data: what a method does, and how a compat mode departs from it.
#pragma once

#include <cstdint>
#include <stdexcept>

namespace facekernels::heatmap {

// The order is that of the names in facekernels/ops/heatmap.py.
enum class Method : int64_t { kArgmax, kShift, kDark, kUdp, kUdpCombined, kMegvii, kMspn, kCount };
enum class Compat : int64_t {
  kNone,
  kHrnet,
  kMmpose,
  kDarkPose,
  kUdp,
  kVitPose,
  kMegvii,
  kMspn,
  kFaceAlignment,
  kCount
};

enum class Refine : uint8_t {
  kNone,
  kQuarter,     // a quarter pixel towards the larger neighbour
  kDark,        // Newton step on the logarithm of the blurred map, differences over two pixels
  kUdp,         // the same, differences over one pixel, also at the border
  kSecondPeak,  // a quarter pixel towards the second maximum of the blurred map
  kOffsetMaps,  // read at the peak from two further maps of the joint
};

// What lies outside the map when it is blurred.
enum class Border : uint8_t {
  kZero,
  kReflect,     // c b a | a b c
  kReflect101,  // c b | a b c
};

// Where a joint without a positive maximum is put.
enum class Invalid : uint8_t {
  kAsked,           // at the caller's coordinates
  kOrigin,          // at (0, 0)
  kOriginRefined,   // at (0, 0), then refined like a peak
  kMinusOne,        // at (-1, -1); a NaN counts as a maximum
  kMinusOneOrNan,   // at (-1, -1), also when the maximum is NaN
  kMinusOneOffset,  // at (-1, -1) plus the offset stored before the joint's maps
  kNan,
  kPeak,  // like any other joint
};

enum class HalfPixel : uint8_t { kNever, kWhereRefined, kAlways };

struct Rule {
  Refine refine = Refine::kNone;
  Border border = Border::kZero;
  Invalid invalid = Invalid::kAsked;
  HalfPixel half_pixel = HalfPixel::kNever;
  bool peak_of_blurred = false;  // the maximum is searched in the blurred map
  bool rescale = true;           // the blurred map is scaled to the maximum it had before
  bool scipy_sigma = false;      // sigma 0.8 for every kernel size, instead of OpenCV's rule
  bool wide_kernel = false;      // 2 kernel + 1 taps
  bool score_of_255 = false;     // score / 255 + 0.5
  bool row_by_height = false;    // row = index / H
  bool axes_together = true;     // both axes are refined or none
  int32_t low = 1;               // quarter: refined where low < p < min(size - 1, high)
  int32_t high = 0x7fffffff;
  // As the peer computes it: a NaN is the maximum, and neither the offset nor the result is
  // clamped.
  bool exact = false;
};

// The published decoder under the safe contract.
constexpr Rule rule_of(Method method) {
  Rule r;
  switch (method) {
    case Method::kShift: r.refine = Refine::kQuarter; break;
    case Method::kDark: r.refine = Refine::kDark; break;
    case Method::kUdp: r.refine = Refine::kUdp; break;
    case Method::kUdpCombined:
      r.refine = Refine::kOffsetMaps;
      r.peak_of_blurred = r.wide_kernel = true;
      r.rescale = false;
      r.border = Border::kReflect101;
      break;
    case Method::kMegvii:
      r.refine = Refine::kQuarter;
      r.peak_of_blurred = r.score_of_255 = true;
      r.half_pixel = HalfPixel::kWhereRefined;
      break;
    case Method::kMspn:
      r.refine = Refine::kSecondPeak;
      r.peak_of_blurred = r.score_of_255 = true;
      r.rescale = false;
      r.half_pixel = HalfPixel::kAlways;
      break;
    default: break;
  }
  return r;
}

// The same as a public implementation does it, with its treatment of borders and of joints that
// were not found. The caller has checked that `compat` offers `method`.
constexpr Rule rule_of(Method method, Compat compat) {
  Rule r = rule_of(method);
  r.exact = compat != Compat::kNone;
  switch (compat) {
    case Compat::kHrnet:
    case Compat::kDarkPose: r.invalid = Invalid::kOrigin; break;
    case Compat::kMmpose:
    case Compat::kMegvii:
      r.invalid = method == Method::kUdp           ? Invalid::kNan
                  : method == Method::kUdpCombined ? Invalid::kMinusOneOffset
                                                   : Invalid::kMinusOne;
      r.axes_together = method == Method::kMegvii;
      break;
    case Compat::kUdp:
      r.invalid = method == Method::kUdp ? Invalid::kOriginRefined : Invalid::kOrigin;
      r.border = Border::kReflect101;
      r.rescale = false;
      break;
    case Compat::kVitPose:
      r.invalid = Invalid::kMinusOneOrNan;
      r.border = Border::kReflect;
      r.rescale = false;
      r.scipy_sigma = true;
      break;
    case Compat::kMspn: r.invalid = Invalid::kOrigin; break;
    case Compat::kFaceAlignment:
      r.invalid = Invalid::kPeak;
      r.row_by_height = true;
      r.low = 0;
      r.high = 63;  // whatever the size of the map
      r.half_pixel = HalfPixel::kAlways;
      break;
    default: break;
  }
  return r;
}

}  // namespace facekernels::heatmap
