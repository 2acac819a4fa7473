// Two launches: a block per image chooses its pixels and writes the mask, then a grid over all
// elements erases at full bandwidth. The map is kept as order-preserving integers, in shared memory
// where it fits, otherwise it is read again from L1 and L2.
#include "core/cuda_dtype.cuh"
#include "core/device.cuh"
#include "core/pack.cuh"
#include "erase/erase.h"
#include "erase/erase_math.h"

namespace facekernels::erase {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kEraseThreads = 256;
constexpr int kGroup = 4;                    // elements of one thread, and words of one Philox draw
constexpr int64_t kSharedBytes = 60 * 1024;  // every GPU from 7.5 on has 64 KiB; some are static

// ---- Keys: integers in the order of the values, -0 = +0 and NaN = -infinity. No value has key 0.

template <class A>
using KeyOf = std::conditional_t<sizeof(A) == 8, unsigned long long, unsigned>;

__device__ __forceinline__ unsigned key_of(float v) {
  v = v == v ? v + 0.0f : -HUGE_VALF;
  const unsigned bits = __float_as_uint(v);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ unsigned long long key_of(double v) {
  v = v == v ? v + 0.0 : -HUGE_VAL;
  const unsigned long long bits = static_cast<unsigned long long>(__double_as_longlong(v));
  constexpr unsigned long long kSign = 1ull << 63;
  return bits & kSign ? ~bits : bits | kSign;
}

// ---- Regions

template <class Key>
struct Cell {
  Key key;  // 0: none
  int index;
};

template <class Key>
__device__ __forceinline__ Cell<Key> better(Cell<Key> a, Cell<Key> b) {
  return b.key > a.key || (b.key == a.key && b.index < a.index) ? b : a;
}

template <class Key>
__device__ __forceinline__ Cell<Key> best_of_warp(Cell<Key> best) {
  FK_UNROLL
  for (int offset = 16; offset > 0; offset /= 2) {
    best = better(best, {__shfl_xor_sync(0xffffffffu, best.key, offset),
                         __shfl_xor_sync(0xffffffffu, best.index, offset)});
  }
  return best;
}

// While the rounds last, the mask also marks anchors that are not erased.
constexpr uint8_t kErased = 1, kVisited = 2;

template <class A>
__global__ void __launch_bounds__(kThreads, 1) pick_regions(const RegionsArgs args, bool cached) {
  using Key = KeyOf<A>;
  FK_DYN_SHARED(Key, keys);
  FK_SHARED(Key, warp_keys, [kWarps]);
  FK_SHARED(int, warp_indices, [kWarps]);
  const Images& m = args.images;
  const int64_t image = blockIdx.x;
  const int pixels = static_cast<int>(m.pixels()), width = static_cast<int>(m.width);
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const A* const map = static_cast<const A*>(args.attention.data) + image * pixels;
  uint8_t* const mask = m.mask + image * pixels;
  for (int p = thread; p < pixels; p += kThreads) {
    mask[p] = 0;
    if (cached) keys[p] = key_of(map[p]);
  }
  __syncthreads();

#pragma unroll 1
  for (int64_t round = 0; round < args.rounds; ++round) {
    const int64_t at = image * args.rounds + round;
    Cell<Key> best{0, 0x7fffffff};
    for (int p = thread; p < pixels; p += kThreads) {
      const Key key = cached ? keys[p] : mask[p] ? 0 : key_of(map[p]);
      if (key > best.key) best = {key, p};  // later cells of a thread have higher indices
    }
    best = best_of_warp(best);
    if (lane == 0) {
      warp_keys[warp] = best.key;
      warp_indices[warp] = best.index;
    }
    __syncthreads();
    const int from = lane < kWarps ? lane : 0;
    best = best_of_warp(Cell<Key>{warp_keys[from], warp_indices[from]});
    const bool found = best.key != 0;
    if (thread == 0) {
      args.anchors[at] = found ? best.index : -1;
      if (found) {
        mask[best.index] = kVisited;
        if (cached) keys[best.index] = 0;
      }
    }
    __syncthreads();
    if (found) {
      const int64_t* const r = args.rects + 4 * at;
      const int y = best.index / width, x = best.index - y * width;
      const Span rows = clip(y, r[0], r[2], m.height), columns = clip(x, r[1], r[3], m.width);
      for (int v = static_cast<int>(rows.begin) + warp; v < rows.end; v += kWarps) {
        for (int u = static_cast<int>(columns.begin) + lane; u < columns.end; u += 32) {
          mask[v * width + u] = kErased;
          if (cached) keys[v * width + u] = 0;
        }
      }
    }
    __syncthreads();
  }

  for (int64_t round = thread; round < args.rounds; round += kThreads) {
    const int64_t anchor = args.anchors[image * args.rounds + round];
    if (anchor >= 0 && mask[anchor] == kVisited) mask[anchor] = 0;
  }
}

// ---- Top N: radix select on 8-bit digits

constexpr int kDigits = 256;

// Where an image's keys come from.
template <class A>
struct Map {
  const A* data;
  int64_t height, width;        // of the attention
  int64_t to_height, to_width;  // of the image
  bool resized;

  // The row's tap is shared by its pixels, so the caller keeps it.
  __device__ __forceinline__ Tap<A> row(int y) const {
    return resized ? tap<A>(y, height, to_height) : Tap<A>{y, y, A(0)};
  }
  __device__ __forceinline__ KeyOf<A> key(Tap<A> row, int x) const {
    const A* const low = data + row.low * width;
    if (!resized) return key_of(low[x]);
    const A* const high = data + row.high * width;
    const Tap<A> t = tap<A>(x, width, to_width);
    return key_of(mix(mix(low[t.low], high[t.low], row.weight),
                      mix(low[t.high], high[t.high], row.weight), t.weight));
  }
};

// f(pixel, key) for every pixel, whole warps at a time: pixel is -1 for lanes without one.
template <class A, class F>
__device__ __forceinline__ void for_each_pixel(const Map<A>& map, F f) {
  const int height = static_cast<int>(map.to_height), width = static_cast<int>(map.to_width);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  for (int y = warp; y < height; y += kWarps) {
    const Tap<A> row = map.row(y);
    for (int first = 0; first < width; first += 32) {
      const int x = first + lane;
      // One call for all lanes: f contains collectives of the whole warp.
      const int pixel = x < width ? y * width + x : -1;
      KeyOf<A> key = 0;
      if (pixel >= 0) key = map.key(row, x);
      f(pixel, key);
    }
  }
}

// The same over values or keys in rows without a gap, 16 bytes of neighbours of a lane per load.
template <class V, class F>
__device__ __forceinline__ void for_each_group(const V* values, int pixels, F f) {
  constexpr int kWord = 16 / static_cast<int>(sizeof(V));
  for (int first = 0; first < pixels; first += kThreads * kWord) {  // uniform in the block
    const int at = first + static_cast<int>(threadIdx.x) * kWord;
    Pack<V, kWord> group{};
    if (at < pixels) group = load_pack<V, kWord>(values, at);  // the last one is padded
    FK_UNROLL
    for (int i = 0; i < kWord; ++i) f(at + i < pixels ? at + i : -1, group.values[i]);
  }
}

// Counts the digits of those keys of a warp that match. Maps cluster on few exponents: one atomic
// per distinct digit. In most passes few keys match.
template <class Key>
__device__ __forceinline__ void count_digits(int* histogram, Key key, int shift, bool matches) {
  if (!__any_sync(0xffffffffu, matches)) return;
  const int digit = matches ? static_cast<int>((key >> shift) & 0xff) : kDigits;
  const unsigned peers = __match_any_sync(0xffffffffu, digit);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (matches && __ffs(static_cast<int>(peers)) - 1 == lane) {
    atomicAdd(&histogram[digit], __popc(peers));
  }
}

template <class A>
__global__ void __launch_bounds__(kThreads, 1) pick_top_n(const TopNArgs args, bool cached) {
  using Key = KeyOf<A>;
  constexpr int kTop = static_cast<int>(sizeof(Key)) * 8 - 8;
  FK_DYN_SHARED(Key, shared_keys);
  FK_SHARED(int, histogram, [kDigits]);
  FK_SHARED(int, digit_found, );
  FK_SHARED(int, left_found, );
  FK_SHARED(int, warp_counts, [kWarps]);
  const Images& m = args.images;
  const int64_t image = blockIdx.x;
  const int pixels = static_cast<int>(m.pixels());
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const Attention& a = args.attention;
  const Map<A> map{static_cast<const A*>(a.data) + image * a.height * a.width,
                   a.height,
                   a.width,
                   m.height,
                   m.width,
                   a.height != m.height || a.width != m.width};
  uint8_t* const mask = m.mask + image * pixels;
  if (args.count == 0) {
    for (int p = thread; p < pixels; p += kThreads) mask[p] = 0;
    return;
  }
  if (cached && pixels + thread < (pixels + kGroup - 1) / kGroup * kGroup) {
    shared_keys[pixels + thread] = 0;  // completes the last group
  }
  const bool grouped = !map.resized && packable<A, kGroup>(map.data, pixels);
  const auto for_each = [&](auto f) {
    if (cached) {
      for_each_group(shared_keys, pixels, f);
    } else if (grouped) {
      for_each_group(map.data, pixels, [&](int p, A value) { f(p, key_of(value)); });
    } else {
      for_each_pixel(map, f);
    }
  };

  // The count-th largest key, from its highest digit on; `left` of the keys that share the digits
  // found so far are still to be taken.
  Key limit = 0;
  int left = static_cast<int>(args.count), equal = 0;
#pragma unroll 1
  for (int shift = kTop; shift >= 0 && left > 0; shift -= 8) {
    for (int i = thread; i < kDigits; i += kThreads) histogram[i] = 0;
    __syncthreads();
    if (shift == kTop) {
      for_each_pixel(map, [&](int p, Key key) {
        count_digits(histogram, key, shift, p >= 0);
        if (cached && p >= 0) shared_keys[p] = key;
      });
    } else {
      for_each([&](int p, Key key) {
        count_digits(histogram, key, shift, p >= 0 && ((key ^ limit) >> (shift + 8)) == 0);
      });
    }
    __syncthreads();
    if (warp == 0) {  // lane l looks at digits 255 - 8 l and the seven below
      int sum = 0;
      FK_UNROLL
      for (int i = 0; i < 8; ++i) sum += histogram[kDigits - 1 - 8 * lane - i];
      int above = sum;
      FK_UNROLL
      for (int offset = 1; offset < 32; offset *= 2) {
        const int other = __shfl_up_sync(0xffffffffu, above, offset);
        if (lane >= offset) above += other;
      }
      above -= sum;
      if (above < left && left <= above + sum) {
        int digit = kDigits - 1 - 8 * lane;
        while (above + histogram[digit] < left) above += histogram[digit--];
        digit_found = digit;
        left_found = left - above;
      }
    }
    __syncthreads();
    limit |= static_cast<Key>(digit_found) << shift;
    left = left_found;
    equal = histogram[digit_found];
    __syncthreads();
  }

  const bool all = left == equal;
  for_each([&](int p, Key key) {
    if (p >= 0) mask[p] = key > limit || (all && key == limit);
  });
  if (all) return;  // the whole block

  // The first `left` cells equal to the limit, in the order of their indices.
  int taken = 0;
  for (int first = 0; first < pixels && taken < left; first += kThreads) {
    const int p = first + thread;
    bool is_equal = false;
    if (p < pixels) {
      const int width = static_cast<int>(m.width), y = p / width;
      is_equal = (cached ? shared_keys[p] : map.key(map.row(y), p - y * width)) == limit;
    }
    const unsigned ballot = __ballot_sync(0xffffffffu, is_equal);
    __syncthreads();  // mask is written, warp_counts may be
    if (lane == 0) warp_counts[warp] = __popc(ballot);
    __syncthreads();
    int rank = taken + __popc(ballot & ((1u << lane) - 1));
    FK_UNROLL
    for (int w = 0; w < kWarps; ++w) {
      const int count = warp_counts[w];
      if (w < warp) rank += count;
      taken += count;
    }
    if (is_equal && rank < left) mask[p] = 1;
  }
}

// ---- Erasing

template <class T>
__device__ __forceinline__ T noise(const FillRule& f, uint32_t word) {
  using A = Accumulate<T>;
  return narrow_to<T>(uniform<A>(word, static_cast<A>(f.value), static_cast<A>(f.span),
                                 static_cast<A>(f.lowest), static_cast<A>(f.highest)));
}

__device__ __forceinline__ uint64_t seed_of(const FillRule& f) {
  return static_cast<uint64_t>(f.seed_tensor ? *f.seed_tensor : f.seed);
}

// The fill of one pixel, unless it is noise.
template <class T>
__device__ __forceinline__ T fill_at(const Images& m, int64_t image, int channel, int pixel) {
  const FillRule& f = m.fill;
  if (f.kind == Fill::kConstant) return narrow_to<T>(static_cast<Accumulate<T>>(f.value));
  const int width = static_cast<int>(m.width), y = pixel / width, x = pixel - y * width;
  return static_cast<const T*>(
      f.tensor)[image * f.stride[0] + channel * f.stride[1] + y * f.stride[2] + x * f.stride[3]];
}

// Any layout and size; a thread per element.
template <class T>
__global__ void __launch_bounds__(kEraseThreads) erase_elements(const Images m, int blocks) {
  const int64_t image = blockIdx.x / blocks;
  const int64_t element = static_cast<int64_t>(blockIdx.x % blocks) * kEraseThreads + threadIdx.x;
  if (element >= m.size()) return;
  const int e = static_cast<int>(element), channels = static_cast<int>(m.channels);
  const int pixels = static_cast<int>(m.pixels());
  const int pixel = m.channels_last ? e / channels : e % pixels;
  const int channel = m.channels_last ? e % channels : e / pixels;
  const int64_t at = image * m.size() + element;
  T value = static_cast<const T*>(m.x)[at];
  if (m.mask[image * pixels + pixel]) {
    if (m.fill.kind == Fill::kNoise) {
      const uint64_t index = (image * channels + channel) * pixels + pixel;
      const Draw draw = philox(index / kGroup, seed_of(m.fill));
      const int i = static_cast<int>(index % kGroup);
      const uint32_t low = i & 1 ? draw.word[1] : draw.word[0];
      const uint32_t high = i & 1 ? draw.word[3] : draw.word[2];
      value = noise<T>(m.fill, i & 2 ? high : low);
    } else {
      value = fill_at<T>(m, image, channel, pixel);
    }
  }
  static_cast<T*>(m.out)[at] = value;
}

// NCHW planes of a multiple of four pixels: four elements of one plane, one draw.
template <class T>
__global__ void __launch_bounds__(kEraseThreads) erase_groups(const Images m, int blocks) {
  const int64_t image = blockIdx.x / blocks;
  const int64_t element =
      (static_cast<int64_t>(blockIdx.x % blocks) * kEraseThreads + threadIdx.x) * kGroup;
  if (element >= m.size()) return;
  const int pixels = static_cast<int>(m.pixels());
  const int channel = static_cast<int>(element) / pixels;
  const int pixel = static_cast<int>(element) - channel * pixels;
  const int64_t at = image * m.size() + element;
  auto value = load_pack<T, kGroup>(m.x, at);
  const uint32_t mask = *reinterpret_cast<const uint32_t*>(m.mask + image * pixels + pixel);
  if (mask && m.fill.kind == Fill::kNoise) {
    const Draw draw = philox(static_cast<uint64_t>(at / kGroup), seed_of(m.fill));
    FK_UNROLL
    for (int i = 0; i < kGroup; ++i) {
      if (mask >> (8 * i) & 0xff) value.values[i] = noise<T>(m.fill, draw.word[i]);
    }
  } else if (mask) {
    FK_UNROLL
    for (int i = 0; i < kGroup; ++i) {
      if (mask >> (8 * i) & 0xff) value.values[i] = fill_at<T>(m, image, channel, pixel + i);
    }
  }
  store_pack(m.out, at, value);
}

void erase_images(const Images& m, Stream stream) {
  if (m.size() == 0) return;
  dispatch_floating<__half, __nv_bfloat16>(m.dtype, [&]<class T>() {
    const bool groups = !m.channels_last && packable<T, kGroup>(m.x, m.pixels()) &&
                        packable<T, kGroup>(m.out, m.pixels()) &&
                        packable<uint8_t, kGroup>(m.mask, m.pixels());
    const int64_t per_block = kEraseThreads * (groups ? kGroup : 1);
    const int64_t blocks = (m.size() + per_block - 1) / per_block;
    launch(groups ? "erase::erase_groups" : "erase::erase_elements",
           blocks_for(m.batch * blocks, 1), kEraseThreads, 0, stream,
           groups ? erase_groups<T> : erase_elements<T>, m, static_cast<int>(blocks));
  });
}

template <class F>
void dispatch_map(DType dtype, F f) {
  if (dtype == DType::kFloat64) return f.template operator()<double>();
  f.template operator()<float>();
}

// Bytes of shared memory for the keys, padded to whole groups; 0 where they do not fit.
template <class A>
int64_t key_bytes(const Images& m) {
  const int64_t groups = (m.pixels() + kGroup - 1) / kGroup;
  const int64_t bytes = groups * kGroup * static_cast<int64_t>(sizeof(A));
  return bytes <= kSharedBytes ? bytes : 0;
}

}  // namespace

void regions_cuda(const RegionsArgs& args, Stream stream) {
  dispatch_map(args.attention.dtype, [&]<class A>() {
    const int64_t bytes = key_bytes<A>(args.images);
    launch("erase::pick_regions", blocks_for(args.images.batch, 1), kThreads,
           static_cast<size_t>(bytes), stream, pick_regions<A>, args, bytes > 0);
  });
  erase_images(args.images, stream);
}

void top_n_cuda(const TopNArgs& args, Stream stream) {
  dispatch_map(args.attention.dtype, [&]<class A>() {
    const int64_t bytes = key_bytes<A>(args.images);
    launch("erase::pick_top_n", blocks_for(args.images.batch, 1), kThreads,
           static_cast<size_t>(bytes), stream, pick_top_n<A>, args, bytes > 0);
  });
  erase_images(args.images, stream);
}

}  // namespace facekernels::erase
