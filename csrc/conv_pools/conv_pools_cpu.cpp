// A block of input channels is laid out as patches, which then stay in the second-level cache while
// all output channels pass over them: reading patches for d_weight, adding to them for d_input.
#include <algorithm>
#include <vector>

#include "conv_pools/conv_pools.h"
#include "conv_pools/conv_pools_math.h"
#include "core/parallel.h"
#include "core/simd.h"
#include "core/simd_run.h"

namespace facekernels::conv_pools::FK_CPU_VARIANT {
namespace {

using namespace facekernels::FK_CPU_VARIANT;

constexpr int kGroup = 9;                    // vectors kept in registers: a 3 x 3 kernel's block
constexpr int64_t kRows = 16;                // output channels whose weights the first cache holds
constexpr int64_t kAhead = 4;                // output channels between a prefetch and its use
constexpr int64_t kPatchBytes = 512 * 1024;  // of the samples that are treated together

// How the work is cut into blocks of input channels and chunks of samples. Every sum is taken in
// the order of samples or output channels, whatever the cut.
template <class A>
struct Plan {
  explicit Plan(const Shape& s)
      : channels(kLanes<A> * std::max<int64_t>(1, kGroup / s.taps())),
        columns(channels * s.taps()),
        mean(s.positions() * columns),
        sample(mean + columns),
        chunk(std::clamp<int64_t>(kPatchBytes / (sample * sizeof(A)), 1, s.batch)) {}

  int64_t channels;  // input channels of a block
  int64_t columns;   // entries of a patch: a whole number of vectors
  int64_t mean;      // where the mean patch of a sample lies, after those of the positions
  int64_t sample;    // entries of all patches of a sample
  int64_t chunk;     // samples treated together
};

// The pools' gradients of consecutive samples.
template <class A>
struct Grads {
  template <class Args>
  Grads(const Args& args, int64_t first)
      : channels(args.shape.out_channels),
        d_mean(static_cast<const A*>(args.d_mean) + first * channels),
        d_max(static_cast<const A*>(args.d_max) + first * channels),
        argmax(args.argmax + first * channels) {}

  int64_t channels;
  const A* d_mean;
  const A* d_max;
  const int32_t* argmax;
};

// f(k, tap_row_offset, tap_column_offset) for the taps of a kernel, k counting them.
template <class F>
void for_each_tap(const Shape& s, F f) {
  for (int64_t k = 0; k < s.taps(); ++k) {
    f(k, offset_of(k / s.kernel_width, s.kernel_height),
      offset_of(k % s.kernel_width, s.kernel_width));
  }
}

// Patches of one sample's channels. Entries that fall outside the map are never written: they stay
// 0 from one block to the next.
template <class T, class A = Accumulate<T>>
void fill_patches(const Shape& s, const Plan<A>& plan, const T* x, int64_t channels, A* patches) {
  const A count = static_cast<A>(s.positions());
  A* const mean = patches + plan.mean;
  for (int64_t i = 0; i < channels; ++i, x += s.stride_channel) {
    for_each_tap(s, [&](int64_t tap, int64_t dy, int64_t dx) {
      const int64_t column = i * s.taps() + tap;
      const Span rows = inside(dy, s.height), cols = inside(dx, s.width);
      A sum = 0;
      for (int64_t y = rows.first; y < rows.last; ++y) {
        const T* const in = x + (y + dy) * s.stride_row + dx * s.stride_column;
        A* const out = patches + y * s.width * plan.columns + column;
        for (int64_t c = cols.first; c < cols.last; ++c) {
          const A value = static_cast<A>(in[c * s.stride_column]);
          sum += value;
          out[c * plan.columns] = value;
        }
      }
      mean[column] = sum / count;
    });
  }
}

// The transpose of fill_patches: every patch's gradient goes back to where its entries came from.
template <class T, class A = Accumulate<T>>
void spread_patches(const Shape& s, const Plan<A>& plan, const A* patches, int64_t channels, A* map,
                    T* d_input) {
  const A count = static_cast<A>(s.positions());
  const A* const mean = patches + plan.mean;
  for (int64_t i = 0; i < channels; ++i, d_input += s.stride_channel) {
    std::fill_n(map, s.positions(), A(0));
    for_each_tap(s, [&](int64_t tap, int64_t dy, int64_t dx) {
      const int64_t column = i * s.taps() + tap;
      const Span rows = inside(dy, s.height), cols = inside(dx, s.width);
      const A everywhere = mean[column] / count;
      for (int64_t y = rows.first; y < rows.last; ++y) {
        A* const to = map + (y + dy) * s.width + dx;
        const A* const from = patches + y * s.width * plan.columns + column;
        for (int64_t c = cols.first; c < cols.last; ++c) {
          to[c] += everywhere + from[c * plan.columns];
        }
      }
    });
    for (int64_t y = 0; y < s.height; ++y) {
      for (int64_t c = 0; c < s.width; ++c) {
        d_input[y * s.stride_row + c * s.stride_column] = narrow<T>(map[y * s.width + c]);
      }
    }
  }
}

// Asks for kVectors vectors of a later row: rows are too far apart for the hardware to foresee.
template <int kVectors, bool kWrite, class T>
inline void prefetch(const T* row) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t k = 0; k < kVectors * kLanes<Accumulate<T>>; k += kLine) {
    __builtin_prefetch(row + k, kWrite);
  }
}

// kVectors vectors of d_weight[c], over the samples of a chunk. `add` continues an earlier chunk.
template <int kVectors, class A, class Full>
void gather(const Plan<A>& plan, const Grads<A>& grads, int64_t samples, int64_t c,
            const A* patches, bool add, A* out, int64_t stride, Full full, int64_t lanes) {
  Vec<A> sum[kVectors] = {};
  prefetch<kVectors, true>(out + kAhead * stride);
  if (add) {
    for (int v = 0; v < kVectors; ++v) sum[v] = load_lanes(out + v * kLanes<A>, full, lanes);
  }
  for (int64_t b = 0; b < samples; ++b, patches += plan.sample) {
    const int64_t at = b * grads.channels + c;
    const Vec<A> everywhere = splat(grads.d_mean[at]), at_max = splat(grads.d_max[at]);
    const A* const patch = patches + grads.argmax[at] * plan.columns;
    for (int v = 0; v < kVectors; ++v) {
      sum[v] += everywhere * load(patches + plan.mean + v * kLanes<A>);
      sum[v] += at_max * load(patch + v * kLanes<A>);
    }
  }
  for (int v = 0; v < kVectors; ++v) store_lanes(out + v * kLanes<A>, sum[v], full, lanes);
}

// kVectors vectors of consecutive rows w[c], added to the patches that their gradients reach.
template <int kVectors, class T, class Full, class A = Accumulate<T>>
void scatter(const Plan<A>& plan, const Grads<A>& grads, int64_t samples, int64_t first,
             int64_t rows, const T* w, int64_t stride, A* patches, Full full, int64_t lanes) {
  Vec<A> values[kVectors];
  for (int64_t c = first; c < first + rows; ++c) {
    const T* const row = w + (c - first) * stride;
    prefetch<kVectors, false>(row + kAhead * stride);
    for (int v = 0; v < kVectors; ++v) values[v] = load_lanes(row + v * kLanes<A>, full, lanes);
    for (int64_t b = 0; b < samples; ++b) {
      const int64_t at = b * grads.channels + c;
      const Vec<A> at_max = splat(grads.d_max[at]);
      A* const patch = patches + b * plan.sample + grads.argmax[at] * plan.columns;
      for (int v = 0; v < kVectors; ++v) {
        A* const to = patch + v * kLanes<A>;
        store(to, load(to) + at_max * values[v]);
      }
    }
  }
  // Again from the first-level cache, so that the sums of the mean patch stay in registers.
  for (int64_t b = 0; b < samples; ++b) {
    A* const out = patches + b * plan.sample + plan.mean;
    for (int v = 0; v < kVectors; ++v) values[v] = load(out + v * kLanes<A>);
    for (int64_t c = first; c < first + rows; ++c) {
      const T* const row = w + (c - first) * stride;
      const Vec<A> everywhere = splat(grads.d_mean[b * grads.channels + c]);
      for (int v = 0; v < kVectors; ++v) {
        values[v] += everywhere * load_lanes(row + v * kLanes<A>, full, lanes);
      }
    }
    for (int v = 0; v < kVectors; ++v) store(out + v * kLanes<A>, values[v]);
  }
}

// f(first, group, full, lanes) for `columns` entries in groups of kGroup vectors, then single ones.
template <class A, class F>
void for_each_group(int64_t columns, F f) {
  constexpr int64_t kStep = kGroup * kLanes<A>;
  int64_t k = 0;
  for (; k + kStep <= columns; k += kStep) {
    f(k, std::integral_constant<int, kGroup>{}, std::true_type{}, kLanes<A>);
  }
  for_each_vector<A>(columns - k, [&](int64_t j, auto full, int64_t lanes) {
    f(k + j, std::integral_constant<int, 1>{}, full, lanes);
  });
}

// A block of input channels for a chunk of samples; patches hold nothing but what the block's
// predecessors on this thread left.
template <class A>
struct Block {
  const Plan<A>& plan;
  Grads<A> grads;
  int64_t first_sample, samples;
  int64_t first_channel, channels;
  std::vector<A>& patches;

  int64_t offset(const Shape& s, int64_t b) const {
    return (first_sample + b) * s.stride_batch + first_channel * s.stride_channel;
  }
  A* of_sample(int64_t b) const { return patches.data() + b * plan.sample; }
};

template <class A, class Args, class F>
void for_each_block(const Args& args, F f) {
  const Shape& s = args.shape;
  const Plan<A> plan(s);
  const int64_t blocks = (s.in_channels + plan.channels - 1) / plan.channels;
  const int64_t cost = 4 * s.batch * plan.columns * (s.out_channels + s.positions()) / kLanes<A>;
  parallel_for(blocks, cost, [&](int64_t begin, int64_t end) {
    std::vector<A> patches(plan.chunk * plan.sample);
    for (int64_t i = begin * plan.channels; i < std::min(end * plan.channels, s.in_channels);
         i += plan.channels) {
      for (int64_t b = 0; b < s.batch; b += plan.chunk) {
        f(Block<A>{plan, Grads<A>(args, b), b, std::min(plan.chunk, s.batch - b), i,
                   std::min(plan.channels, s.in_channels - i), patches});
      }
    }
  });
}

template <class T>
void d_weight(const WeightArgs& args) {
  using A = Accumulate<T>;
  const Shape& s = args.shape;
  for_each_block<A>(args, [&](const Block<A>& block) {
    for (int64_t b = 0; b < block.samples; ++b) {
      fill_patches(s, block.plan, static_cast<const T*>(args.x) + block.offset(s, b),
                   block.channels, block.of_sample(b));
    }
    A* row = static_cast<A*>(args.d_weight) + block.first_channel * s.taps();
    for (int64_t c = 0; c < s.out_channels; ++c, row += s.patch()) {
      for_each_group<A>(
          block.channels * s.taps(), [&](int64_t k, auto group, auto full, int64_t lanes) {
            gather<group>(block.plan, block.grads, block.samples, c, block.patches.data() + k,
                          block.first_sample > 0, row + k, s.patch(), full, lanes);
          });
    }
  });
}

template <class T>
void d_input(const InputArgs& args) {
  using A = Accumulate<T>;
  const Shape& s = args.shape;
  for_each_block<A>(args, [&](const Block<A>& block) {
    std::fill(block.patches.begin(), block.patches.end(), A(0));
    const T* rows = static_cast<const T*>(args.weight) + block.first_channel * s.taps();
    for (int64_t c = 0; c < s.out_channels; c += kRows, rows += kRows * s.patch()) {
      for_each_group<A>(block.channels * s.taps(),
                        [&](int64_t k, auto group, auto full, int64_t lanes) {
                          scatter<group>(block.plan, block.grads, block.samples, c,
                                         std::min(kRows, s.out_channels - c), rows + k, s.patch(),
                                         block.patches.data() + k, full, lanes);
                        });
    }
    std::vector<A> map(s.positions());
    for (int64_t b = 0; b < block.samples; ++b) {
      spread_patches(s, block.plan, block.of_sample(b), block.channels, map.data(),
                     static_cast<T*>(args.d_input) + block.offset(s, b));
    }
  });
}

}  // namespace

void d_weight_cpu(const WeightArgs& args) {
  dispatch_floating<Half, BFloat16>(args.dtype, [&]<class T>() { d_weight<T>(args); });
}

void d_input_cpu(const InputArgs& args) {
  dispatch_floating<Half, BFloat16>(args.dtype, [&]<class T>() { d_input<T>(args); });
}

}  // namespace facekernels::conv_pools::FK_CPU_VARIANT
