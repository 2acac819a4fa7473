// NCHW: a thread keeps a position and walks channels, so that neighbours read and write
// neighbouring positions of a row, mirrored or not. channels_last: a thread keeps 16 bytes of
// channels. Weights come from the caches, where a warp asks for the same or for neighbouring ones.
// Sums of squares go by tiles of kTile positions to a second, small kernel. See
// attention_consistency.h.
#include "attention_consistency/attention_consistency.h"
#include "attention_consistency/attention_consistency_math.h"
#include "core/cuda_dtype.cuh"
#include "core/device.cuh"
#include "core/pack.cuh"

namespace facekernels::attention_consistency {
namespace {

constexpr int kClasses = 8;       // whose sums a thread keeps
constexpr int kRowThreads = 512;  // of residual_of_rows
constexpr int kRowPositions = 64;
constexpr int kChunk = 128;          // channels whose weights are in shared memory
constexpr int kColumnPositions = 2;  // of a warp
constexpr int kThreads = 256;
constexpr int kChannels = 8;  // of a thread of gradient_of_rows

static_assert(kRowPositions % kTile == 0);
static_assert(kThreads / 32 * kColumnPositions == kTile);

// Elements of 16 bytes.
template <class T>
constexpr int kPack = static_cast<int>(16 / sizeof(T));

// Positions of a thread of gradient_of_columns.
template <class T>
constexpr int kRun = sizeof(T) == 2 ? 4 : 8;

// ---- forward

// A block has up to kRowPositions positions of one image; its threads are groups of as many, each
// group with every other channel, so that consecutive groups read consecutive memory where the
// block has the whole map.
template <class T>
__global__ void __launch_bounds__(kRowThreads)
    residual_of_rows(const ForwardArgs args, const uint32_t blocks_per_image) {
  using A = Accumulate<T>;
  using Weights = Pack<A, kClasses>;  // of a channel
  FK_SHARED(Weights, weights, [kChunk]);
  FK_SHARED(A, parts, [kClasses][kRowThreads]);
  const Shape& shape = args.shape;
  const int64_t positions = shape.positions(), channels = shape.channels;
  const int64_t b = blockIdx.x / blocks_per_image;
  const int64_t first = static_cast<int64_t>(blockIdx.x % blocks_per_image) * kRowPositions;
  const int64_t k0 = static_cast<int64_t>(blockIdx.y) * kClasses;
  const int count =
      positions - first < kRowPositions ? static_cast<int>(positions - first) : kRowPositions;
  const int classes =
      shape.classes - k0 < kClasses ? static_cast<int>(shape.classes - k0) : kClasses;
  const int thread = static_cast<int>(threadIdx.x);
  const int group = thread / count, groups = kRowThreads / count;
  const int64_t p = first + thread - group * count;
  const T* const own = static_cast<const T*>(args.features) + b * args.features_stride + p;
  const T* const mirror =
      static_cast<const T*>(args.flipped) + b * args.flipped_stride + mirrored(p, shape.width);
  A sums[kClasses] = {};
  for (int64_t chunk = 0; chunk < channels; chunk += kChunk) {
    const int size = channels - chunk < kChunk ? static_cast<int>(channels - chunk) : kChunk;
    __syncthreads();
    for (int i = thread; i < kChunk * kClasses; i += kRowThreads) {
      const int k = i / kChunk, c = i % kChunk;
      weights[c].values[k] =
          k < classes && c < size
              ? static_cast<const A*>(args.weight)[(k0 + k) * channels + chunk + c]
              : A(0);
    }
    __syncthreads();
    if (group >= groups) continue;
#pragma unroll 4
    for (int c = group; c < size; c += groups) {
      const int64_t at = (chunk + c) * positions;
      const A difference = widen(own[at]) - widen(mirror[at]);
      const Weights of_channel = weights[c];
      FK_UNROLL
      for (int k = 0; k < kClasses; ++k) sums[k] += of_channel.values[k] * difference;
    }
  }
  FK_UNROLL
  for (int k = 0; k < kClasses; ++k) parts[k][thread] = sums[k];
  __syncthreads();
  // A class and position per thread; `count * kClasses` are at most the block's threads.
  const int k = thread / count, j = thread - k * count;
  const bool mine = k < classes;
  A sum = A(0);
  if (mine) {
    for (int g = 0; g < groups; ++g) sum += parts[k][g * count + j];
    static_cast<A*>(args.residual)[(b * shape.classes + k0 + k) * positions + first + j] = sum;
  }
  if (args.squares == nullptr) return;
  __syncthreads();
  if (mine) parts[k][j] = sum * sum;
  __syncthreads();
  const int tile = thread / kClasses, of = thread % kClasses;
  if (tile * kTile < count && of < classes) {
    const int end = count < (tile + 1) * kTile ? count : (tile + 1) * kTile;
    A total = A(0);
    for (int i = tile * kTile; i < end; ++i) total += parts[of][i];
    static_cast<A*>(
        args.squares)[(b * shape.tiles() + first / kTile + tile) * shape.classes + k0 + of] = total;
  }
}

// Lane i gets the sum of values[i % kCount] over groups of kCount lanes: each step halves what a
// lane keeps.
template <int kCount, class A>
__device__ __forceinline__ A sum_of_lane(const A (&values)[kCount]) {
  if constexpr (kCount == 1) {
    return values[0];
  } else {
    constexpr int kHalf = kCount / 2;
    const bool upper = (threadIdx.x & kHalf) != 0;
    A kept[kHalf];
    FK_UNROLL
    for (int i = 0; i < kHalf; ++i) {
      const A given = upper ? values[i] : values[i + kHalf];
      kept[i] =
          (upper ? values[i + kHalf] : values[i]) + __shfl_xor_sync(0xffffffffu, given, kHalf);
    }
    return sum_of_lane(kept);
  }
}

// channels_last: a block has a tile of positions, a warp kColumnPositions of them and all channels.
template <class T, int kCount>
__global__ void __launch_bounds__(kThreads, 2) residual_of_columns(const ForwardArgs args) {
  using A = Accumulate<T>;
  constexpr int kSums = kColumnPositions * kClasses;
  FK_SHARED(A, squares, [kTile][kClasses]);
  const Shape& shape = args.shape;
  const int64_t positions = shape.positions(), channels = shape.channels;
  const uint32_t tiles = static_cast<uint32_t>(shape.tiles());
  const int64_t b = blockIdx.x / tiles, tile = blockIdx.x % tiles;
  const int64_t k0 = static_cast<int64_t>(blockIdx.y) * kClasses;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t first = tile * kTile + warp * kColumnPositions;
  const T* const features = static_cast<const T*>(args.features) + b * args.features_stride;
  const T* const flipped = static_cast<const T*>(args.flipped) + b * args.flipped_stride;
  // Positions behind the last repeat it, classes too: their sums are left.
  int64_t own[kColumnPositions], mirror[kColumnPositions];
  FK_UNROLL
  for (int q = 0; q < kColumnPositions; ++q) {
    const int64_t p = first + q < positions ? first + q : positions - 1;
    own[q] = p * channels;
    mirror[q] = mirrored(p, shape.width) * channels;
  }
  A sums[kSums] = {};  // [kColumnPositions][kClasses]
  for (int64_t c = lane * kCount; c < channels; c += 32 * kCount) {
    A differences[kColumnPositions][kCount];
    FK_UNROLL
    for (int q = 0; q < kColumnPositions; ++q) {
      const auto of_own = load_pack<T, kCount>(features, own[q] + c);
      const auto of_mirror = load_pack<T, kCount>(flipped, mirror[q] + c);
      FK_UNROLL
      for (int i = 0; i < kCount; ++i) {
        differences[q][i] = widen(of_own.values[i]) - widen(of_mirror.values[i]);
      }
    }
    FK_UNROLL
    for (int k = 0; k < kClasses; ++k) {
      const int64_t row = k0 + k < shape.classes ? k0 + k : shape.classes - 1;
      const auto weight = load_pack<A, kCount>(args.weight, row * channels + c);
      FK_UNROLL
      for (int q = 0; q < kColumnPositions; ++q) {
        FK_UNROLL
        for (int i = 0; i < kCount; ++i) {
          sums[q * kClasses + k] += weight.values[i] * differences[q][i];
        }
      }
    }
  }
  A sum = sum_of_lane(sums);
  FK_UNROLL
  for (int offset = kSums; offset < 32; offset *= 2) {
    sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  }
  const int k = lane % kClasses, q = lane / kClasses;
  const bool mine = q < kColumnPositions && first + q < positions && k0 + k < shape.classes;
  if (mine) {
    static_cast<A*>(args.residual)[(b * shape.classes + k0 + k) * positions + first + q] = sum;
  }
  if (args.squares == nullptr) return;
  if (q < kColumnPositions) {
    squares[warp * kColumnPositions + q][k] = mine ? sum * sum : A(0);
  }
  __syncthreads();
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < kClasses && k0 + thread < shape.classes) {
    A total = A(0);
    for (int i = 0; i < kTile; ++i) total += squares[i][thread];
    static_cast<A*>(args.squares)[blockIdx.x * shape.classes + k0 + thread] = total;
  }
}

// The sums of tiles to means: one block, because they are few. Every class is added up in the same
// order: by threads, then over the threads.
template <class A>
__global__ void __launch_bounds__(kThreads) batch_means(const ForwardArgs args) {
  FK_SHARED(A, parts, [kThreads]);
  const Shape& shape = args.shape;
  const int64_t count = shape.batch * shape.tiles();
  const A* const squares = static_cast<const A*>(args.squares);
  const A* const class_weights = static_cast<const A*>(args.class_weights);
  const int thread = static_cast<int>(threadIdx.x);
  A loss = A(0);
  for (int64_t k = 0; k < shape.classes; ++k) {
    A sum = A(0);
#pragma unroll 4
    for (int64_t i = thread; i < count; i += kThreads) sum += squares[i * shape.classes + k];
    parts[thread] = sum;
    __syncthreads();
    for (int half = kThreads / 2; half > 0; half /= 2) {
      if (thread < half) parts[thread] += parts[thread + half];
      __syncthreads();
    }
    if (thread == 0) {
      const A mean = parts[0] / (static_cast<A>(shape.batch) * static_cast<A>(shape.positions()));
      static_cast<A*>(args.per_class)[k] = mean;
      loss += class_weights != nullptr ? class_weights[k] * mean : mean;
    }
  }
  if (thread == 0) *static_cast<A*>(args.loss) = loss;
}

// Without the mean over the batch: a thread per sample.
template <class A>
__global__ void __launch_bounds__(kThreads) sample_means(const ForwardArgs args) {
  const Shape& shape = args.shape;
  const int64_t b = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (b >= shape.batch) return;
  const A* const squares = static_cast<const A*>(args.squares) + b * shape.tiles() * shape.classes;
  const A* const class_weights = static_cast<const A*>(args.class_weights);
  A loss = A(0);
  for (int64_t k = 0; k < shape.classes; ++k) {
    A sum = A(0);
#pragma unroll 4
    for (int64_t i = 0; i < shape.tiles(); ++i) sum += squares[i * shape.classes + k];
    const A mean = sum / static_cast<A>(shape.positions());
    static_cast<A*>(args.per_class)[b * shape.classes + k] = mean;
    loss += class_weights != nullptr ? class_weights[k] * mean : mean;
  }
  static_cast<A*>(args.loss)[b] = loss;
}

// ---- backward

// NCHW: a thread per position and kChannels channels.
template <class T>
__global__ void __launch_bounds__(kThreads)
    gradient_of_rows(const BackwardArgs args, const uint32_t blocks_per_image) {
  using A = Accumulate<T>;
  const Shape& shape = args.shape;
  const int64_t positions = shape.positions(), channels = shape.channels;
  const int64_t b = blockIdx.x / blocks_per_image;
  const uint32_t item = blockIdx.x % blocks_per_image * kThreads + threadIdx.x;
  const uint32_t octet = item / static_cast<uint32_t>(positions);
  const int64_t c = static_cast<int64_t>(octet) * kChannels;
  if (c >= channels) return;
  const int64_t p = item - octet * static_cast<uint32_t>(positions);
  const A* const residual =
      static_cast<const A*>(args.residual) + b * shape.classes * positions + p;
  const A* const weight = static_cast<const A*>(args.weight) + c;
  const int count = channels - c < kChannels ? static_cast<int>(channels - c) : kChannels;
  A sums[kChannels] = {};
#pragma unroll 2
  for (int64_t k = 0; k < shape.classes; ++k) {
    const A g = coefficient<A>(args, b, k) * residual[k * positions];
    FK_UNROLL
    for (int i = 0; i < kChannels; ++i) {
      sums[i] += weight[k * channels + (i < count ? i : count - 1)] * g;
    }
  }
  const int64_t image = b * shape.size() + c * positions;
  const int64_t mirror = mirrored(p, shape.width);
  FK_UNROLL
  for (int i = 0; i < kChannels; ++i) {
    if (i >= count) break;
    const int64_t at = image + i * positions;
    if (args.d_features != nullptr) {
      static_cast<T*>(args.d_features)[at + p] = narrow_to<T>(sums[i]);
    }
    if (args.d_flipped != nullptr) {
      static_cast<T*>(args.d_flipped)[at + mirror] = narrow_to<T>(-sums[i]);
    }
  }
}

// channels_last: a thread per kCount channels and kRun positions of an image.
template <class T, int kCount>
__global__ void __launch_bounds__(kThreads)
    gradient_of_columns(const BackwardArgs args, const int64_t runs) {
  using A = Accumulate<T>;
  const Shape& shape = args.shape;
  const int64_t positions = shape.positions(), channels = shape.channels;
  const int64_t packs = channels / kCount;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= shape.batch * runs * packs) return;
  const int64_t run = item / packs, c = (item - run * packs) * kCount;
  const int64_t b = run / runs, first = (run - b * runs) * kRun<T>;
  const A* const residual = static_cast<const A*>(args.residual) + b * shape.classes * positions;
  const int count = positions - first < kRun<T> ? static_cast<int>(positions - first) : kRun<T>;
  A sums[kRun<T>][kCount] = {};
  for (int64_t k = 0; k < shape.classes; ++k) {
    const A s = coefficient<A>(args, b, k);
    const auto weight = load_pack<A, kCount>(args.weight, k * channels + c);
    FK_UNROLL
    for (int i = 0; i < kRun<T>; ++i) {
      const A g = s * residual[k * positions + first + (i < count ? i : count - 1)];
      FK_UNROLL
      for (int j = 0; j < kCount; ++j) sums[i][j] += weight.values[j] * g;
    }
  }
  FK_UNROLL
  for (int i = 0; i < kRun<T>; ++i) {
    if (i >= count) break;
    Pack<T, kCount> values, negated;
    FK_UNROLL
    for (int j = 0; j < kCount; ++j) {
      values.values[j] = narrow_to<T>(sums[i][j]);
      negated.values[j] = narrow_to<T>(-sums[i][j]);
    }
    const int64_t image = b * positions, p = first + i;
    if (args.d_features != nullptr) {
      store_pack(args.d_features, (image + p) * channels + c, values);
    }
    if (args.d_flipped != nullptr) {
      store_pack(args.d_flipped, (image + mirrored(p, shape.width)) * channels + c, negated);
    }
  }
}

// Whether 16 bytes of channels may be read and written at once.
template <class T>
bool channels_packed(const Shape& shape, const void* weight,
                     std::initializer_list<const void*> maps, int64_t stride) {
  bool packed = packable<Accumulate<T>, kPack<T>>(weight, shape.channels) && stride % kPack<T> == 0;
  for (const void* map : maps) packed = packed && packable<T, kPack<T>>(map, shape.channels);
  return packed;
}

dim3 grid_of(int64_t blocks, int64_t classes) {
  const int64_t groups = (classes + kClasses - 1) / kClasses;
  if (groups > 65535) throw std::invalid_argument("at most 524280 classes are possible on CUDA");
  return {blocks_for(blocks, 1).x, static_cast<unsigned>(groups), 1};
}

}  // namespace

void forward_cuda(const ForwardArgs& args, Stream stream) {
  dispatch_floating<__half, __nv_bfloat16>(args.dtype, [&]<class T>() {
    const Shape& shape = args.shape;
    if (!shape.channels_last) {
      const int64_t blocks = (shape.positions() + kRowPositions - 1) / kRowPositions;
      launch("attention_consistency::residual_of_rows",
             grid_of(shape.batch * blocks, shape.classes), kRowThreads, 0, stream,
             residual_of_rows<T>, args, blocks);
    } else {
      const bool packed = channels_packed<T>(shape, args.weight, {args.features, args.flipped},
                                             args.features_stride | args.flipped_stride);
      launch("attention_consistency::residual_of_columns",
             grid_of(shape.batch * shape.tiles(), shape.classes), kThreads, 0, stream,
             packed ? residual_of_columns<T, kPack<T>> : residual_of_columns<T, 1>, args);
    }
    if (args.loss == nullptr) return;
    using A = Accumulate<T>;
    if (args.per_sample) {
      launch("attention_consistency::sample_means", blocks_for(shape.batch, kThreads), kThreads, 0,
             stream, sample_means<A>, args);
    } else {
      launch("attention_consistency::batch_means", 1, kThreads, 0, stream, batch_means<A>, args);
    }
  });
}

void backward_cuda(const BackwardArgs& args, Stream stream) {
  dispatch_floating<__half, __nv_bfloat16>(args.dtype, [&]<class T>() {
    const Shape& shape = args.shape;
    if (!shape.channels_last) {
      const int64_t octets = (shape.channels + kChannels - 1) / kChannels;
      const int64_t blocks = blocks_for(octets * shape.positions(), kThreads).x;
      launch("attention_consistency::gradient_of_rows", blocks_for(shape.batch * blocks, 1),
             kThreads, 0, stream, gradient_of_rows<T>, args, blocks);
      return;
    }
    const int64_t runs = (shape.positions() + kRun<T> - 1) / kRun<T>;
    const bool packed =
        channels_packed<T>(shape, args.weight, {args.d_features, args.d_flipped}, 0);
    const int64_t packs = packed ? shape.channels / kPack<T> : shape.channels;
    launch("attention_consistency::gradient_of_columns",
           blocks_for(shape.batch * runs * packs, kThreads), kThreads, 0, stream,
           packed ? gradient_of_columns<T, kPack<T>> : gradient_of_columns<T, 1>, args, runs);
  });
}

}  // namespace facekernels::attention_consistency
