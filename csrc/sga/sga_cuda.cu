// A thread owns kPack neighbouring values of one perturbation and walks the samples in order: loads
// are coalesced along the image, sums stay in registers, and no thread waits for another. Only the
// norm of the momentum form crosses threads; it takes a launch of its own. See sga.h.
#include "core/cuda_dtype.cuh"
#include "core/device.cuh"
#include "core/pack.cuh"
#include "sga/sga.h"
#include "sga/sga_dispatch.h"
#include "sga/sga_math.h"

namespace facekernels::sga {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kPack = 4;
// Samples whose loads are in flight together.
constexpr int kRows = 4;

// Which values a thread owns. Blocks of one perturbation (or image) follow each other.
template <int kCount>
struct Place {
  int64_t row;
  int64_t first;
  bool inside;

  __device__ Place(int64_t size, int64_t blocks_per_row) {
    row = blockIdx.x / blocks_per_row;
    first = ((blockIdx.x % blocks_per_row) * kThreads + threadIdx.x) * kCount;
    inside = first < size;
  }
};

inline int64_t blocks_per_row(int64_t size, int count) {
  return (size + static_cast<int64_t>(kThreads) * count - 1) /
         (static_cast<int64_t>(kThreads) * count);
}

template <class A>
__device__ __forceinline__ A not_a_number() {
  return static_cast<A>(NAN);
}

template <class A, class T, class I, int kCount>
__global__ void __launch_bounds__(kThreads)
    apply(const ApplyArgs args, const int64_t blocks_per_image) {
  const int64_t size = args.shape.size();
  const Place<kCount> place(size, blocks_per_image);
  if (!place.inside) return;
  const Selection& selection = args.selection;
  const int64_t u = place.row / selection.batch, i = place.row - u * selection.batch;
  const int64_t row = selection.row(u, i);
  const bool known = row >= 0 && row < selection.rows;
  const auto image =
      load_pack<I, kCount>(selection.images, (known ? row : 0) * selection.stride + place.first);
  const auto delta = load_pack<A, kCount>(args.delta, u * size + place.first);
  const int channel = static_cast<int>(place.first / args.shape.plane);
  const A mean = args.mean != nullptr ? static_cast<const A*>(args.mean)[channel] : A(0);
  const A std = args.std != nullptr ? static_cast<const A*>(args.std)[channel] : A(1);
  Pack<T, kCount> out;
  FK_UNROLL
  for (int k = 0; k < kCount; ++k) {
    const A v = known ? pixel(image.values[k], A(0)) + delta.values[k] : not_a_number<A>();
    out.values[k] = narrow_to<T>((clamp(v, A(0), A(1)) - mean) / std);
  }
  store_pack(args.out, place.row * size + place.first, out);
}

// Adds the gradients of kCountRows samples, one after the other.
template <class A, class T, class I, int kCount, int kCountRows>
__device__ __forceinline__ void add_samples(const InnerArgs& args, int64_t u, int64_t i,
                                            int64_t first, const Pack<A, kCount>& delta,
                                            A (&sums)[kCount]) {
  const Selection& selection = args.selection;
  Pack<T, kCount> grads[kCountRows];
  Pack<I, kCount> images[kCountRows];
  bool known[kCountRows];
  FK_UNROLL
  for (int r = 0; r < kCountRows; ++r) {
    const int64_t row = selection.row(u, i + r);
    known[r] = row >= 0 && row < selection.rows;
    images[r] =
        load_pack<I, kCount>(selection.images, (known[r] ? row : 0) * selection.stride + first);
    grads[r] = load_pack<T, kCount>(
        args.grad, u * args.grad_stride_perturbation + (i + r) * args.grad_stride_sample + first);
  }
  FK_UNROLL
  for (int r = 0; r < kCountRows; ++r) {
    FK_UNROLL
    for (int k = 0; k < kCount; ++k) {
      const A v = pixel(images[r].values[k], A(0)) + delta.values[k];
      const A g = passes(v) ? A(widen(grads[r].values[k])) : A(0);
      sums[k] += known[r] ? g : not_a_number<A>();
    }
  }
}

template <class A, class T, class I, int kCount>
__global__ void __launch_bounds__(kThreads, 1)
    inner(const InnerArgs args, const int64_t blocks_per_perturbation) {
  const int64_t size = args.shape.size();
  const Place<kCount> place(size, blocks_per_perturbation);
  if (!place.inside) return;
  const int64_t u = place.row, at = u * size + place.first, batch = args.selection.batch;
  auto delta = load_pack<A, kCount>(args.delta, at);
  auto total = load_pack<A, kCount>(args.accumulator, at);
  A sums[kCount];
  FK_UNROLL
  for (int k = 0; k < kCount; ++k) sums[k] = A(0);
  int64_t i = 0;
#pragma unroll 1
  for (; i + kRows <= batch; i += kRows) {
    add_samples<A, T, I, kCount, kRows>(args, u, i, place.first, delta, sums);
  }
#pragma unroll 1
  for (; i < batch; ++i) {
    add_samples<A, T, I, kCount, 1>(args, u, i, place.first, delta, sums);
  }
  const int channel = static_cast<int>(place.first / args.shape.plane);
  const A std = args.std != nullptr ? static_cast<const A*>(args.std)[channel] : A(1);
  const A scale = A(1) / exact_mul(static_cast<A>(batch), std);
  FK_UNROLL
  for (int k = 0; k < kCount; ++k) {
    const A g = exact_mul(sums[k], scale);
    total.values[k] = exact_add(total.values[k], g);
    delta.values[k] =
        sign_step(delta.values[k], g, static_cast<A>(args.step), static_cast<A>(args.epsilon));
  }
  store_pack(args.accumulator, at, total);
  store_pack(args.delta, at, delta);
}

// One warp's share of norm_of: lane t holds the fixed lanes t and t + 32.
template <class A>
__device__ __forceinline__ A norm_of(const A* values, int64_t size) {
  const int lane = threadIdx.x % 32;
  A low = A(0), high = A(0);
#pragma unroll 4
  for (int64_t j = lane; j < size; j += kNormLanes) {
    const A v = values[j];
    low += v < A(0) ? -v : v;
    if (j + 32 < size) {
      const A w = values[j + 32];
      high += w < A(0) ? -w : w;
    }
  }
  A sum = low + high;
  FK_UNROLL
  for (int offset = 16; offset > 0; offset /= 2) {
    sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  }
  return sum;
}

// A warp per chunk.
template <class A>
__global__ void __launch_bounds__(kThreads) partial_norms(const OuterArgs args) {
  const int64_t size = args.shape.size(), chunks = norm_chunks(size);
  const int64_t wanted = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  const int64_t count = args.shape.count * chunks;
  // Warps without a chunk of their own repeat the last one and write nothing.
  const int64_t item = wanted < count ? wanted : count - 1;
  const int64_t first = item % chunks * kNormChunk;
  const int64_t length = size - first < kNormChunk ? size - first : kNormChunk;
  const A sum =
      norm_of(static_cast<const A*>(args.accumulator) + item / chunks * size + first, length);
  if (threadIdx.x % 32 == 0 && wanted < count) static_cast<A*>(args.partial)[item] = sum;
}

template <class A, int kCount, bool kMomentum>
__global__ void __launch_bounds__(kThreads, 1)  // without the 1 ptxas caps registers and spills
    outer(const OuterArgs args, const int64_t blocks_per_perturbation) {
  FK_SHARED(A, shared_norm, );
  const int64_t size = args.shape.size();
  const Place<kCount> place(size, blocks_per_perturbation);
  const int64_t u = place.row, at = u * size + place.first;
  if constexpr (kMomentum) {
    const int64_t chunks = norm_chunks(size);
    if (threadIdx.x < 32) {
      const A norm = norm_of(static_cast<const A*>(args.partial) + u * chunks, chunks);
      if (threadIdx.x == 0) shared_norm = usable_norm(norm);
    }
    __syncthreads();
  }
  if (!place.inside) return;
  auto delta = load_pack<A, kCount>(args.delta, at);
  auto g = load_pack<A, kCount>(args.accumulator, at);
  if constexpr (kMomentum) {
    const A norm = shared_norm, momentum = static_cast<A>(args.momentum);
    const auto velocity = load_pack<A, kCount>(args.velocity, at);
    FK_UNROLL
    for (int k = 0; k < kCount; ++k) {
      g.values[k] = momentum_step(velocity.values[k], g.values[k], momentum, norm);
    }
    store_pack(args.velocity, at, g);
  }
  Pack<A, kCount> zero;
  FK_UNROLL
  for (int k = 0; k < kCount; ++k) {
    delta.values[k] = sign_step(delta.values[k], g.values[k], static_cast<A>(args.step),
                                static_cast<A>(args.epsilon));
    zero.values[k] = A(0);
  }
  store_pack(args.delta, at, delta);
  store_pack(args.accumulator, at, zero);
}

template <class A, class T, int kCount>
__global__ void __launch_bounds__(kThreads, 1)
    aggregate(const AggregateArgs args, const int64_t blocks_per_perturbation) {
  const int64_t size = args.shape.size();
  const Place<kCount> place(size, blocks_per_perturbation);
  if (!place.inside) return;
  const int64_t u = place.row, at = u * size + place.first;
  A totals[kCount];
  FK_UNROLL
  for (int k = 0; k < kCount; ++k) totals[k] = A(0);
#pragma unroll 1
  for (int64_t e = 0; e < args.ensemble; ++e) {
    const int64_t member = (u * args.ensemble + e) * args.samples;
    A sums[kCount];
    FK_UNROLL
    for (int k = 0; k < kCount; ++k) sums[k] = A(0);
    int64_t m = 0;
#pragma unroll 1
    for (; m + kRows <= args.samples; m += kRows) {
      Pack<T, kCount> grads[kRows];
      FK_UNROLL
      for (int r = 0; r < kRows; ++r) {
        grads[r] = load_pack<T, kCount>(args.grads, (member + m + r) * size + place.first);
      }
      FK_UNROLL
      for (int r = 0; r < kRows; ++r) {
        FK_UNROLL
        for (int k = 0; k < kCount; ++k) sums[k] += widen(grads[r].values[k]);
      }
    }
#pragma unroll 1
    for (; m < args.samples; ++m) {
      const auto grads = load_pack<T, kCount>(args.grads, (member + m) * size + place.first);
      FK_UNROLL
      for (int k = 0; k < kCount; ++k) sums[k] += widen(grads.values[k]);
    }
    const A weight = args.weights != nullptr ? static_cast<const A*>(args.weights)[e] : A(1);
    FK_UNROLL
    for (int k = 0; k < kCount; ++k) {
      totals[k] = exact_add(totals[k], exact_mul(weight, sums[k]));
    }
  }
  auto delta = load_pack<A, kCount>(args.delta, at);
  FK_UNROLL
  for (int k = 0; k < kCount; ++k) {
    delta.values[k] = sign_step(delta.values[k], totals[k], static_cast<A>(args.step),
                                static_cast<A>(args.epsilon));
  }
  store_pack(args.out, at, delta);
}

// Calls f<kCount>(): kPack values a thread where every tensor allows it, else one.
template <class F>
void dispatch_pack(bool packed, F&& f) {
  if (packed) return f.template operator()<kPack>();
  f.template operator()<1>();
}

}  // namespace

void apply_cuda(const ApplyArgs& args, Stream stream) {
  dispatch_types<__half, __nv_bfloat16>(
      args.dtype, args.out_dtype, args.selection.dtype, [&]<class A, class T, class I>() {
        const Perturbations& shape = args.shape;
        const bool packed = shape.plane % kPack == 0 && packable<A, kPack>(args.delta, 0) &&
                            packable<T, kPack>(args.out, 0) &&
                            packable<I, kPack>(args.selection.images, args.selection.stride);
        dispatch_pack(packed, [&]<int kCount>() {
          const int64_t blocks = blocks_per_row(shape.size(), kCount);
          launch("sga::apply", blocks_for(shape.count * args.selection.batch * blocks, 1), kThreads,
                 0, stream, apply<A, T, I, kCount>, args, blocks);
        });
      });
}

void inner_cuda(const InnerArgs& args, Stream stream) {
  dispatch_types<__half, __nv_bfloat16>(
      args.dtype, args.grad_dtype, args.selection.dtype, [&]<class A, class T, class I>() {
        const Perturbations& shape = args.shape;
        const bool packed = shape.plane % kPack == 0 && packable<A, kPack>(args.delta, 0) &&
                            packable<A, kPack>(args.accumulator, 0) &&
                            packable<T, kPack>(args.grad, args.grad_stride_perturbation) &&
                            args.grad_stride_sample % kPack == 0 &&
                            packable<I, kPack>(args.selection.images, args.selection.stride);
        dispatch_pack(packed, [&]<int kCount>() {
          const int64_t blocks = blocks_per_row(shape.size(), kCount);
          launch("sga::inner", blocks_for(shape.count * blocks, 1), kThreads, 0, stream,
                 inner<A, T, I, kCount>, args, blocks);
        });
      });
}

template <class A>
static void outer_of(const OuterArgs& args, Stream stream) {
  const Perturbations& shape = args.shape;
  const bool packed = shape.size() % kPack == 0 && packable<A, kPack>(args.delta, 0) &&
                      packable<A, kPack>(args.accumulator, 0) &&
                      packable<A, kPack>(args.velocity, 0);
  if (args.velocity != nullptr) {
    launch("sga::partial_norms", blocks_for(shape.count * norm_chunks(shape.size()) * 32, kThreads),
           kThreads, 0, stream, partial_norms<A>, args);
  }
  dispatch_pack(packed, [&]<int kCount>() {
    const int64_t blocks = blocks_per_row(shape.size(), kCount);
    const dim3 grid = blocks_for(shape.count * blocks, 1);
    if (args.velocity != nullptr) {
      launch("sga::outer", grid, kThreads, 0, stream, outer<A, kCount, true>, args, blocks);
    } else {
      launch("sga::outer", grid, kThreads, 0, stream, outer<A, kCount, false>, args, blocks);
    }
  });
}

void outer_cuda(const OuterArgs& args, Stream stream) {
  if (args.dtype == DType::kFloat64) return outer_of<double>(args, stream);
  outer_of<float>(args, stream);
}

void aggregate_cuda(const AggregateArgs& args, Stream stream) {
  dispatch_types<__half, __nv_bfloat16>(args.dtype, args.grad_dtype, [&]<class A, class T>() {
    const Perturbations& shape = args.shape;
    const bool packed = shape.size() % kPack == 0 && packable<A, kPack>(args.delta, 0) &&
                        packable<A, kPack>(args.out, 0) && packable<T, kPack>(args.grads, 0);
    dispatch_pack(packed, [&]<int kCount>() {
      const int64_t blocks = blocks_per_row(shape.size(), kCount);
      launch("sga::aggregate", blocks_for(shape.count * blocks, 1), kThreads, 0, stream,
             aggregate<A, T, kCount>, args, blocks);
    });
  });
}

}  // namespace facekernels::sga
