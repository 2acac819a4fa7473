#include <algorithm>
#include <type_traits>

#include "core/parallel.h"
#include "core/simd.h"
#include "core/simd_run.h"
#include "sga/sga.h"
#include "sga/sga_dispatch.h"
#include "sga/sga_math.h"

namespace facekernels::sga::FK_CPU_VARIANT {
namespace {

using namespace facekernels::FK_CPU_VARIANT;

// Values of one channel whose sums and perturbation stay in the first cache while the samples pass.
constexpr int64_t kBlock = 2048;
// Samples added per visit of a block's sums; they are added one after the other all the same.
constexpr int kRows = 4;

// ---- pixels

// GCC turns a conversion of a whole byte vector into shuffles; the instruction exists.
template <class A>
inline Vec<A> widen_bytes(const uint8_t (&bytes)[kLanes<A>]) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<A, float>) {
    const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
    return std::bit_cast<Vec<A>>(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(b)));
  }
#elif defined(__AVX2__)
  if constexpr (std::is_same_v<A, float>) {
    const __m128i b = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes));
    return std::bit_cast<Vec<A>>(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(b)));
  }
#endif
  Vec<A> v;
  for (int i = 0; i < kLanes<A>; ++i) v[i] = static_cast<A>(bytes[i]);
  return v;
}

// Pixels in [0, 1]. A is named because bytes do not tell it.
template <class A, bool kFull>
inline Vec<A> load_pixels(const A* p, std::bool_constant<kFull> full, int64_t count) {
  return load_lanes(p, full, count);
}
template <class A, bool kFull>
inline Vec<A> load_pixels(const uint8_t* p, std::bool_constant<kFull>, int64_t count) {
  uint8_t bytes[kLanes<A>] = {};
  std::memcpy(bytes, p, kFull ? sizeof bytes : static_cast<size_t>(count));
  const Vec<A> v = widen_bytes<A>(bytes);
  if constexpr (std::is_same_v<A, double>) {
    return v / 255.0;
  } else {
    return v * 0x1.01p-8f + v * 0x1.010102p-24f;  // as pixel() of sga_math.h
  }
}

template <class A>
inline Vec<A> clamp_lanes(Vec<A> v, A low, A high) {
  return v < splat(low) ? splat(low) : v > splat(high) ? splat(high) : v;
}

template <class A>
inline Vec<A> sign_step_lanes(Vec<A> delta, Vec<A> g, A step, A epsilon) {
  const Vec<A> zero{};
  const Vec<A> moved = delta + (g > zero ? splat(step) : g < zero ? splat(-step) : zero);
  return clamp_lanes(moved, -epsilon, epsilon);
}

// ---- blocks

// One block of one channel of one perturbation.
struct Block {
  int64_t perturbation, channel;
  int64_t offset;  // in delta[u], from its first value
  int64_t count;
};

template <class F>
void for_each_block(const Perturbations& shape, int64_t samples, F f) {
  const int64_t per_channel = (shape.plane + kBlock - 1) / kBlock;
  parallel_for(shape.count * shape.channels * per_channel,
               (samples + 1) * std::min(shape.plane, kBlock), [&](int64_t begin, int64_t end) {
                 for (int64_t item = begin; item < end; ++item) {
                   const int64_t row = item / per_channel;
                   const int64_t first = item % per_channel * kBlock;
                   const int64_t channel = row % shape.channels;
                   f(Block{row / shape.channels, channel, channel * shape.plane + first,
                           std::min(kBlock, shape.plane - first)});
                 }
               });
}

// f(i, rows) for groups of kRows samples and for the single ones left.
template <class F>
void for_each_group(int64_t samples, F f) {
  int64_t i = 0;
  for (; i + kRows <= samples; i += kRows) f(i, std::integral_constant<int, kRows>{});
  for (; i < samples; ++i) f(i, std::integral_constant<int, 1>{});
}

template <class A, class I>
const I* image_of(const Selection& selection, int64_t perturbation, int64_t i) {
  return static_cast<const I*>(selection.images) +
         selection.row(perturbation, i) * selection.stride;
}

// ---- kernels

template <class A, class T, class I>
void apply(const ApplyArgs& args) {
  const Perturbations& shape = args.shape;
  const int64_t batch = args.selection.batch;
  parallel_for(shape.count * batch * shape.channels, shape.plane, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t channel = item % shape.channels, sample = item / shape.channels;
      const int64_t u = sample / batch, offset = channel * shape.plane;
      const I* const image = image_of<A, I>(args.selection, u, sample % batch) + offset;
      const A* const delta = static_cast<const A*>(args.delta) + u * shape.size() + offset;
      T* const out = static_cast<T*>(args.out) + item * shape.plane;
      const A mean = args.mean ? static_cast<const A*>(args.mean)[channel] : A(0);
      const A std = args.std ? static_cast<const A*>(args.std)[channel] : A(1);
      for_each_vector<A>(shape.plane, [&](int64_t j, auto full, int64_t count) {
        const Vec<A> v =
            load_pixels<A>(image + j, full, count) + load_lanes(delta + j, full, count);
        store_lanes(out + j, (clamp_lanes(v, A(0), A(1)) - mean) / std, full, count);
      });
    }
  });
}

template <class A, class T, class I>
void inner(const InnerArgs& args) {
  const Perturbations& shape = args.shape;
  const int64_t batch = args.selection.batch;
  const A step = static_cast<A>(args.step), epsilon = static_cast<A>(args.epsilon);
  for_each_block(shape, batch, [&](const Block& block) {
    const int64_t u = block.perturbation, at = u * shape.size() + block.offset;
    A* const delta = static_cast<A*>(args.delta) + at;
    A* const accumulator = static_cast<A*>(args.accumulator) + at;
    const T* const grad =
        static_cast<const T*>(args.grad) + u * args.grad_stride_perturbation + block.offset;
    alignas(64) A sums[kBlock];
    std::fill_n(sums, kBlock, A(0));
    for_each_group(batch, [&]<int kCount>(int64_t i, std::integral_constant<int, kCount>) {
      const I* images[kCount];
      const T* grads[kCount];
      for (int r = 0; r < kCount; ++r) {
        images[r] = image_of<A, I>(args.selection, u, i + r) + block.offset;
        grads[r] = grad + (i + r) * args.grad_stride_sample;
      }
      for_each_vector<A>(block.count, [&](int64_t j, auto full, int64_t count) {
        const Vec<A> d = load_lanes(delta + j, full, count);
        Vec<A> sum = load(sums + j);
        for (int r = 0; r < kCount; ++r) {
          const Vec<A> v = load_pixels<A>(images[r] + j, full, count) + d;
          const Vec<A> g = load_lanes(grads[r] + j, full, count);
          sum += (v >= splat(A(0))) & (v <= splat(A(1))) ? g : Vec<A>{};
        }
        store(sums + j, sum);
      });
    });
    const A std = args.std ? static_cast<const A*>(args.std)[block.channel] : A(1);
    const A scale = A(1) / (static_cast<A>(batch) * std);
    for_each_vector<A>(block.count, [&](int64_t j, auto full, int64_t count) {
      const Vec<A> g = load(sums + j) * scale;
      const Vec<A> total = load_lanes(accumulator + j, full, count) + g;
      store_lanes(accumulator + j, total, full, count);
      const Vec<A> d = load_lanes(delta + j, full, count);
      store_lanes(delta + j, sign_step_lanes(d, g, step, epsilon), full, count);
    });
  });
}

template <class A>
A sum_of_lanes(Vec<A> (&lanes)[kNormLanes / kLanes<A>]) {
  for (int half = kNormLanes / kLanes<A> / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return reduce(lanes[0], add);
}

// Lane j adds |values[j]|, |values[j + kNormLanes]|, ...
template <class A>
A norm_of(const A* values, int64_t size) {
  constexpr int kVectors = kNormLanes / kLanes<A>;
  Vec<A> lanes[kVectors] = {};
  for (int64_t first = 0; first < size; first += kNormLanes) {
    const auto add_vector = [&](int i, Vec<A> v) { lanes[i] += v < Vec<A>{} ? -v : v; };
    if (first + kNormLanes <= size) {
      for (int i = 0; i < kVectors; ++i) add_vector(i, load(values + first + i * kLanes<A>));
      continue;
    }
    for_each_vector<A>(size - first, [&](int64_t j, auto full, int64_t count) {
      add_vector(static_cast<int>(j / kLanes<A>), load_lanes(values + first + j, full, count));
    });
  }
  return sum_of_lanes<A>(lanes);
}

template <class A>
void outer(const OuterArgs& args) {
  const Perturbations& shape = args.shape;
  const A step = static_cast<A>(args.step), epsilon = static_cast<A>(args.epsilon);
  const A momentum = static_cast<A>(args.momentum);
  const int64_t chunks = norm_chunks(shape.size());
  A* const partial = static_cast<A*>(args.partial);
  if (args.velocity) {
    parallel_for(shape.count * chunks, kNormChunk, [&](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) {
        const int64_t first = item % chunks * kNormChunk;
        const A* const values =
            static_cast<const A*>(args.accumulator) + item / chunks * shape.size() + first;
        partial[item] = norm_of(values, std::min(kNormChunk, shape.size() - first));
      }
    });
  }
  for (int64_t u = 0; u < shape.count; ++u) {
    const A norm = args.velocity ? usable_norm(norm_of(partial + u * chunks, chunks)) : A(0);
    parallel_for(chunks, kNormChunk, [&](int64_t begin, int64_t end) {
      const int64_t first = begin * kNormChunk, last = std::min(end * kNormChunk, shape.size());
      const int64_t at = u * shape.size() + first;
      A* const delta = static_cast<A*>(args.delta) + at;
      A* const accumulator = static_cast<A*>(args.accumulator) + at;
      A* const velocity = args.velocity ? static_cast<A*>(args.velocity) + at : nullptr;
      for_each_vector<A>(last - first, [&](int64_t j, auto full, int64_t count) {
        Vec<A> g = load_lanes(accumulator + j, full, count);
        if (velocity) {
          g = load_lanes(velocity + j, full, count) * momentum +
              (norm > A(0) ? g / splat(norm) : Vec<A>{});
          store_lanes(velocity + j, g, full, count);
        }
        const Vec<A> d = load_lanes(delta + j, full, count);
        store_lanes(delta + j, sign_step_lanes(d, g, step, epsilon), full, count);
        store_lanes(accumulator + j, Vec<A>{}, full, count);
      });
    });
  }
}

template <class A, class T>
void aggregate(const AggregateArgs& args) {
  const Perturbations& shape = args.shape;
  const A step = static_cast<A>(args.step), epsilon = static_cast<A>(args.epsilon);
  for_each_block(shape, args.ensemble * args.samples, [&](const Block& block) {
    const int64_t u = block.perturbation, at = u * shape.size() + block.offset;
    alignas(64) A sums[kBlock], totals[kBlock];
    std::fill_n(totals, kBlock, A(0));
    for (int64_t e = 0; e < args.ensemble; ++e) {
      const T* const member = static_cast<const T*>(args.grads) +
                              (u * args.ensemble + e) * args.samples * shape.size() + block.offset;
      std::fill_n(sums, kBlock, A(0));
      for_each_group(args.samples, [&]<int kCount>(int64_t m, std::integral_constant<int, kCount>) {
        const T* const grads = member + m * shape.size();
        for_each_vector<A>(block.count, [&](int64_t j, auto full, int64_t count) {
          Vec<A> sum = load(sums + j);
          for (int r = 0; r < kCount; ++r) {
            sum += load_lanes(grads + r * shape.size() + j, full, count);
          }
          store(sums + j, sum);
        });
      });
      const A weight = args.weights ? static_cast<const A*>(args.weights)[e] : A(1);
      for (int64_t j = 0; j < block.count; ++j) totals[j] += weight * sums[j];
    }
    const A* const delta = static_cast<const A*>(args.delta) + at;
    A* const out = static_cast<A*>(args.out) + at;
    for_each_vector<A>(block.count, [&](int64_t j, auto full, int64_t count) {
      const Vec<A> d = load_lanes(delta + j, full, count);
      store_lanes(out + j, sign_step_lanes(d, load(totals + j), step, epsilon), full, count);
    });
  });
}

}  // namespace

void apply_cpu(const ApplyArgs& args) {
  dispatch_types<Half, BFloat16>(args.dtype, args.out_dtype, args.selection.dtype,
                                 [&]<class A, class T, class I>() { apply<A, T, I>(args); });
}

void inner_cpu(const InnerArgs& args) {
  dispatch_types<Half, BFloat16>(args.dtype, args.grad_dtype, args.selection.dtype,
                                 [&]<class A, class T, class I>() { inner<A, T, I>(args); });
}

void outer_cpu(const OuterArgs& args) {
  if (args.dtype == DType::kFloat64) return outer<double>(args);
  outer<float>(args);
}

void aggregate_cpu(const AggregateArgs& args) {
  dispatch_types<Half, BFloat16>(args.dtype, args.grad_dtype,
                                 [&]<class A, class T>() { aggregate<A, T>(args); });
}

}  // namespace facekernels::sga::FK_CPU_VARIANT
