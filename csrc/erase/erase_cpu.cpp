// Image by image, so that the map and the mask stay in the first cache levels. Compiled with
// -ffp-contract=off (core/exact.h).
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#include "core/parallel.h"
#include "core/simd.h"
#include "erase/erase.h"
#include "erase/erase_math.h"

namespace facekernels::erase::FK_CPU_VARIANT {
namespace {

using namespace facekernels::FK_CPU_VARIANT;

template <class A>
constexpr A kLowest = -std::numeric_limits<A>::infinity();
template <class A>
constexpr A kGone = std::numeric_limits<A>::quiet_NaN();  // loses every comparison

// ---- Writing the image

template <class T>
T noise_at(const FillRule& f, uint64_t seed, uint64_t& block, Draw& draw, uint64_t element) {
  using A = Accumulate<T>;
  if (element / 4 != block) {
    block = element / 4;
    draw = philox(block, seed);
  }
  return narrow<T>(uniform<A>(draw.word[element % 4], static_cast<A>(f.value),
                              static_cast<A>(f.span), static_cast<A>(f.lowest),
                              static_cast<A>(f.highest)));
}

// One plane. Both sources of a pixel are read, so that the compiler can blend instead of branch.
template <class T>
void blend(const T* __restrict x, const uint8_t* __restrict mask, T fill, int64_t pixels,
           T* __restrict out) {
  for (int64_t p = 0; p < pixels; ++p) {
    const T kept = x[p];
    out[p] = mask[p] ? fill : kept;
  }
}
template <class T>
void blend(const T* __restrict x, const uint8_t* __restrict mask, const T* __restrict fill,
           int64_t pixels, T* __restrict out) {
  for (int64_t p = 0; p < pixels; ++p) {
    const T kept = x[p], filled = fill[p];
    out[p] = mask[p] ? filled : kept;
  }
}

// Bits is an unsigned integer as wide as T: copies keep every bit, NaN payloads included.
template <class T>
class Eraser {
  using Bits = std::conditional_t<sizeof(T) == 2, uint16_t,
                                  std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>;

 public:
  explicit Eraser(const Images& images) : images_(images) {
    const FillRule& f = images.fill;
    seed_ = static_cast<uint64_t>(f.seed_tensor ? *f.seed_tensor : f.seed);
    constant_ = bits(narrow<T>(static_cast<Accumulate<T>>(f.value)));
  }

  void operator()(int64_t image) {
    const FillRule& f = images_.fill;
    const int64_t size = images_.size(), pixels = images_.pixels();
    const Bits* const x = static_cast<const Bits*>(images_.x) + image * size;
    Bits* const out = static_cast<Bits*>(images_.out) + image * size;
    const uint8_t* const mask = images_.mask + image * pixels;
    const bool spread = f.stride[2] == 0 && f.stride[3] == 0;
    const bool dense = f.stride[3] == 1 && f.stride[2] == images_.width;
    if (images_.channels_last || f.kind == Fill::kNoise ||
        (f.kind == Fill::kTensor && !spread && !dense)) {
      std::memcpy(out, x, size * sizeof(T));
      return overwrite(image, mask, out);
    }
    for (int64_t c = 0; c < images_.channels; ++c) {
      const int64_t at = c * pixels;
      if (f.kind == Fill::kConstant) {
        blend(x + at, mask, constant_, pixels, out + at);
      } else {
        const Bits* const fill =
            static_cast<const Bits*>(f.tensor) + image * f.stride[0] + c * f.stride[1];
        if (spread) {
          blend(x + at, mask, *fill, pixels, out + at);
        } else {
          blend(x + at, mask, fill, pixels, out + at);
        }
      }
    }
  }

 private:
  static Bits bits(T x) { return std::bit_cast<Bits>(x); }

  // The general way: erased pixels one by one, after a copy.
  void overwrite(int64_t image, const uint8_t* mask, Bits* out) {
    const FillRule& f = images_.fill;
    const int64_t pixels = images_.pixels(), channels = images_.channels;
    erased_.resize(pixels);
    int64_t count = 0;
    for (int64_t p = 0; p < pixels; ++p) {
      erased_[count] = static_cast<int32_t>(p);
      count += mask[p];
    }
    uint64_t block = ~uint64_t{0};
    Draw draw{};
    for (int64_t c = 0; c < channels; ++c) {
      const Bits* const fill =
          static_cast<const Bits*>(f.tensor) + image * f.stride[0] + c * f.stride[1];
      for (int64_t i = 0; i < count; ++i) {
        const int64_t p = erased_[i];
        Bits value = constant_;
        if (f.kind == Fill::kTensor) {
          value = fill[p / images_.width * f.stride[2] + p % images_.width * f.stride[3]];
        } else if (f.kind == Fill::kNoise) {
          const uint64_t element = (image * channels + c) * pixels + p;
          value = bits(noise_at<T>(f, seed_, block, draw, element));
        }
        out[images_.channels_last ? p * channels + c : c * pixels + p] = value;
      }
    }
  }

  const Images& images_;
  uint64_t seed_;
  Bits constant_;
  std::vector<int32_t> erased_;
};

// Calls choose(image), which fills the image's mask, and erases.
template <class MakeChoose>
void run(const Images& images, MakeChoose make_choose) {
  dispatch_floating<Half, BFloat16>(images.dtype, [&]<class T>() {
    const int64_t cost = 2 * images.size() + 4 * images.pixels();
    parallel_for(images.batch, cost, [&](int64_t begin, int64_t end) {
      Eraser<T> erase(images);
      auto choose = make_choose();
      for (int64_t image = begin; image < end; ++image) {
        choose(image);
        erase(image);
      }
    });
  });
}

template <class F>
void dispatch_map(DType dtype, F f) {
  if (dtype == DType::kFloat64) return f.template operator()<double>();
  f.template operator()<float>();
}

template <class A>
Vec<A> ranked(Vec<A> v) {
  return v == v ? v : splat(kLowest<A>);
}

// ---- Regions

// A copy of the map in which cells that are erased or visited are kGone, and the largest cell of
// every row: a round searches one row and repairs those that its rectangle crosses.
template <class A>
class RegionPicker {
 public:
  explicit RegionPicker(const RegionsArgs& args)
      : args_(args),
        stride_((args.images.width + kLanes<A> - 1) / kLanes<A> * kLanes<A>),
        cells_(args.images.height * stride_, kGone<A>),
        row_max_(args.images.height) {}

  void operator()(int64_t image) {
    const Images& m = args_.images;
    load_map(static_cast<const A*>(args_.attention.data) + image * m.pixels());
    uint8_t* const mask = m.mask + image * m.pixels();
    std::memset(mask, 0, m.pixels());
    for (int64_t round = 0; round < args_.rounds; ++round) {
      const int64_t at = image * args_.rounds + round;
      const int64_t y = best_row();
      args_.anchors[at] = -1;
      if (y < 0) continue;
      const int64_t x = find(y, row_max_[y]);
      args_.anchors[at] = y * m.width + x;
      cells_[y * stride_ + x] = kGone<A>;
      const int64_t* const r = args_.rects + 4 * at;
      const Span rows = clip(y, r[0], r[2], m.height), columns = clip(x, r[1], r[3], m.width);
      for (int64_t v = rows.begin; v < rows.end; ++v) {
        std::memset(mask + v * m.width + columns.begin, 1, columns.end - columns.begin);
        std::fill(&cells_[v * stride_] + columns.begin, &cells_[v * stride_] + columns.end,
                  kGone<A>);
        row_max_[v] = largest(v);
      }
      row_max_[y] = largest(y);
    }
  }

 private:
  void load_map(const A* map) {
    constexpr int kWidth = kLanes<A>;
    const Images& m = args_.images;
    for (int64_t y = 0; y < m.height; ++y) {
      A* const row = &cells_[y * stride_];
      int64_t x = 0;
      for (; x + kWidth <= m.width; x += kWidth) {
        store(row + x, ranked<A>(load(map + y * m.width + x)));
      }
      for (; x < m.width; ++x) {
        const A v = map[y * m.width + x];
        row[x] = v == v ? v : kLowest<A>;
      }
      row_max_[y] = largest(y);
    }
  }

  // kGone for a row without a cell left.
  A largest(int64_t y) const {
    const A* const row = &cells_[y * stride_];
    Vec<A> best = splat(kLowest<A>);
    for (int64_t x = 0; x < stride_; x += kLanes<A>) best = maximum(best, load(row + x));
    const A value = reduce(best, maximum);
    return value > kLowest<A> || find(y, value) >= 0 ? value : kGone<A>;
  }

  int64_t find(int64_t y, A value) const {
    const A* const row = &cells_[y * stride_];
    for (int64_t x = 0; x < stride_; x += kLanes<A>) {
      if (const uint64_t found = equal_bits(load(row + x), splat(value))) {
        return x + std::countr_zero(found);
      }
    }
    return -1;
  }

  int64_t best_row() const {
    int64_t best = -1;
    for (int64_t y = 0; y < args_.images.height; ++y) {
      const A value = row_max_[y];
      if (value == value && (best < 0 || value > row_max_[best])) best = y;
    }
    return best;
  }

  const RegionsArgs& args_;
  int64_t stride_;
  std::vector<A> cells_, row_max_;
};

// ---- Top N

// Selected are the values above `limit` and the first `ties` of those equal to it.
template <class A>
struct Threshold {
  A limit;
  int64_t ties;
};

// Sampled bracket (Floyd and Rivest, 1975): a sample gives two values between which the wanted rank
// almost surely lies, one pass counts outside and collects inside. Exact also where it does not.
template <class A>
class Selector {
 public:
  explicit Selector(int64_t size) : size_(size), inside_(size + kLanes<A>) {}

  Threshold<A> operator()(const A* values, int64_t count) {
    if (count == 0) return {std::numeric_limits<A>::infinity(), 0};
    if (size_ <= 2 * kSample) {
      std::copy(values, values + size_, inside_.begin());
      return nth(size_, count);
    }
    const auto [low, high] = bracket(values, count);
    const Counts n = scan(values, low, high);
    if (count > n.above && count <= n.from_high) return {high, count - n.above};
    if (count > n.from_high && count <= n.from_high + n.inside) {
      return nth(n.inside, count - n.from_high);
    }
    if (count > n.from_high + n.inside && count <= n.from_low) {
      return {low, count - n.from_high - n.inside};
    }
    const auto missed = [&](A v) { return count <= n.above ? v > high : v < low; };
    const auto end = std::copy_if(values, values + size_, inside_.begin(), missed);
    return nth(end - inside_.begin(), count <= n.above ? count : count - n.from_low);
  }

 private:
  static constexpr int64_t kSample = 512;

  struct Counts {
    int64_t above, from_high, inside, from_low;
  };

  // The count-th largest of the first `size` values inside.
  Threshold<A> nth(int64_t size, int64_t count) {
    const auto begin = inside_.begin();
    std::nth_element(begin, begin + count - 1, begin + size, std::greater<A>());
    const A limit = begin[count - 1];
    const auto above = std::count_if(begin, begin + count, [=](A v) { return v > limit; });
    return {limit, count - above};
  }

  // The ranks three standard deviations either side of the wanted one.
  std::pair<A, A> bracket(const A* values, int64_t count) {
    A sample[kSample];
    for (int64_t i = 0; i < kSample; ++i) sample[i] = values[i * size_ / kSample];
    const double share = static_cast<double>(count) / static_cast<double>(size_);
    const double middle = share * kSample;
    const double margin = 3 * std::sqrt(kSample * share * (1 - share)) + 2;
    const int64_t first = static_cast<int64_t>(middle - margin);
    const int64_t last = static_cast<int64_t>(middle + margin);
    A low = kLowest<A>, high = -kLowest<A>;
    A* begin = sample;
    if (middle > margin) {
      std::nth_element(sample, sample + first, sample + kSample, std::greater<A>());
      high = sample[first];
      begin = sample + first;
    }
    if (last < kSample) {
      std::nth_element(begin, sample + last, sample + kSample, std::greater<A>());
      low = sample[last];
    }
    return {low, high};
  }

  Counts scan(const A* values, A low, A high) {
    constexpr int kWidth = kLanes<A>;
    const Vec<A> wide_low = splat(low), wide_high = splat(high);
    Vec<IndexOf<A>> above{}, from_high{}, from_low{};
    A* const out = inside_.data();
    int64_t inside = 0;
    const auto visit = [&](Vec<A> v, int64_t p) {
      above -= v > wide_high;
      from_high -= v >= wide_high;
      from_low -= v >= wide_low;
      uint64_t between = greater_bits(v, wide_low) & greater_bits(wide_high, v);
      for (; between; between &= between - 1) out[inside++] = values[p + std::countr_zero(between)];
    };
    int64_t p = 0;
    for (; p + kWidth <= size_; p += kWidth) visit(load(values + p), p);
    if (p < size_) visit(load_partial(values + p, size_ - p, kGone<A>), p);
    return {reduce(above, add), reduce(from_high, add), inside, reduce(from_low, add)};
  }

  int64_t size_;
  std::vector<A> inside_;
};

template <class A>
class TopNPicker {
 public:
  explicit TopNPicker(const TopNArgs& args)
      : args_(args),
        resize_(args.attention.height != args.images.height ||
                args.attention.width != args.images.width),
        map_(args.images.pixels()),
        select_(args.images.pixels()) {
    if (!resize_) return;
    row_.resize(args.attention.width);
    for (int64_t x = 0; x < args.images.width; ++x) {
      taps_.push_back(tap<A>(x, args.attention.width, args.images.width));
    }
  }

  void operator()(int64_t image) {
    const Attention& a = args_.attention;
    const A* const attention = static_cast<const A*>(a.data) + image * a.height * a.width;
    resize_ ? load_resized(attention) : load_map(attention);
    const int64_t pixels = args_.images.pixels();
    mark(select_(map_.data(), args_.count), args_.images.mask + image * pixels);
  }

 private:
  void load_map(const A* attention) {
    for (size_t p = 0; p < map_.size(); ++p) {
      map_[p] = attention[p] == attention[p] ? attention[p] : kLowest<A>;
    }
  }

  void load_resized(const A* attention) {
    const int64_t width = args_.images.width;
    for (int64_t y = 0; y < args_.images.height; ++y) {
      const Tap<A> t = tap<A>(y, args_.attention.height, args_.images.height);
      const A* const low = attention + t.low * args_.attention.width;
      const A* const high = attention + t.high * args_.attention.width;
      for (size_t x = 0; x < row_.size(); ++x) row_[x] = mix(low[x], high[x], t.weight);
      for (int64_t x = 0; x < width; ++x) {
        const A v = mix(row_[taps_[x].low], row_[taps_[x].high], taps_[x].weight);
        map_[y * width + x] = v == v ? v : kLowest<A>;
      }
    }
  }

  void mark(Threshold<A> t, uint8_t* mask) const {
    constexpr int kWidth = kLanes<A>;
    const A* const map = map_.data();
    const int64_t pixels = map_.size();
    for (int64_t p = 0; p < pixels; ++p) mask[p] = map[p] > t.limit;
    for (int64_t p = 0; t.ties > 0; p += kWidth) {
      const int64_t start = std::min(p, std::max<int64_t>(pixels - kWidth, 0));
      uint64_t equal = pixels >= kWidth
                           ? equal_bits(load(map + start), splat(t.limit)) >> (p - start)
                                                                                  << (p - start)
                           : equal_bits(load_partial(map, pixels, kGone<A>), splat(t.limit));
      for (; equal && t.ties > 0; equal &= equal - 1, --t.ties) {
        mask[start + std::countr_zero(equal)] = 1;
      }
    }
  }

  const TopNArgs& args_;
  bool resize_;
  std::vector<A> map_, row_;
  std::vector<Tap<A>> taps_;
  Selector<A> select_;
};

}  // namespace

void regions_cpu(const RegionsArgs& args) {
  dispatch_map(args.attention.dtype,
               [&]<class A>() { run(args.images, [&] { return RegionPicker<A>(args); }); });
}

void top_n_cpu(const TopNArgs& args) {
  dispatch_map(args.attention.dtype,
               [&]<class A>() { run(args.images, [&] { return TopNPicker<A>(args); }); });
}

}  // namespace facekernels::erase::FK_CPU_VARIANT
