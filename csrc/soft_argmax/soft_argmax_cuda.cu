// A warp per small map, a block per large one; backward is one thread per cell. See soft_argmax.h.
#include "core/cuda_dtype.cuh"
#include "core/device.cuh"
#include "core/pack.cuh"
#include "soft_argmax/soft_argmax.h"
#include "soft_argmax/soft_argmax_math.h"

namespace facekernels::soft_argmax {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kCellsOfWarp = 4096;  // larger maps get a block of their own
constexpr int kPack = 4;            // cells of one load, where all rows are made of whole ones
constexpr float kInfinity = HUGE_VALF;

template <class A>
struct Moments {
  A max;
  A sum, sum_x, sum_y;  // of w = exp(beta (h - max)), w x, w y; x and y from the map's centre
};

// exp(log_scale), where 2 ulp are enough and the fast unit gives them.
__device__ __forceinline__ float exp_of(float v) {
  return exp2f(v * 1.44269504f);
}
__device__ __forceinline__ double exp_of(double v) {
  return exp(v);
}

// exp(beta (value - max)); nothing weighs at -infinity, whatever the maximum.
template <class A>
__device__ __forceinline__ A weight(A value, A max, A beta) {
  return exp_of((value - (max == A(-kInfinity) ? A(0) : max)) * beta);
}

template <class A>
__device__ __forceinline__ void raise(Moments<A>& m, A max, A beta) {
  if (max > m.max) {
    const A shrink = weight(m.max, max, beta);
    m.sum *= shrink;
    m.sum_x *= shrink;
    m.sum_y *= shrink;
    m.max = max;
  }
}

template <class A>
__device__ __forceinline__ void merge(Moments<A>& m, Moments<A> other, A beta) {
  const A max = other.max > m.max ? other.max : m.max;
  raise(m, max, beta);
  raise(other, max, beta);
  m.sum += other.sum;
  m.sum_x += other.sum_x;
  m.sum_y += other.sum_y;
}

// Lane pairs merge in the order of their lanes, so both compute the same sum.
template <class A>
__device__ __forceinline__ void merge_lanes(Moments<A>& m, A beta) {
#pragma unroll 1
  for (int offset = 16; offset > 0; offset /= 2) {
    Moments<A> other{__shfl_down_sync(0xffffffffu, m.max, offset),
                     __shfl_down_sync(0xffffffffu, m.sum, offset),
                     __shfl_down_sync(0xffffffffu, m.sum_x, offset),
                     __shfl_down_sync(0xffffffffu, m.sum_y, offset)};
    merge(m, other, beta);
  }
}

// Every cell of one map, by the threads first = 0, 1, ... step - 1: f(values, xs, ys) of four
// cells, neighbours where the map is packed.
template <class T, class F>
__device__ __forceinline__ void for_each_four(const MapStack& maps, bool packed, const T* map,
                                              int first, int step, F f) {
  using A = Accumulate<T>;
  const int cells = static_cast<int>(maps.cells()), width = static_cast<int>(maps.width);
  if (packed) {
#pragma unroll 4
    for (int pack = first; pack < cells / kPack; pack += step) {
      const auto loaded = load_pack<T, kPack>(map, static_cast<int64_t>(pack) * kPack);
      const int y = pack / (width / kPack), x = pack * kPack - y * width;
      A values[kPack];
      FK_UNROLL
      for (int i = 0; i < kPack; ++i) values[i] = widen(loaded.values[i]);
      const int xs[kPack] = {x, x + 1, x + 2, x + 3}, ys[kPack] = {y, y, y, y};
      f(values, xs, ys);
    }
    return;
  }
  for (int64_t cell = first; cell < cells; cell += 4 * static_cast<int64_t>(step)) {
    A values[4];
    int xs[4], ys[4];
    FK_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int64_t at = cell + static_cast<int64_t>(i) * step;
      const int inside = static_cast<int>(at < cells ? at : cell);
      ys[i] = inside / width;
      xs[i] = inside - ys[i] * width;
      const A value = widen(map[ys[i] * maps.stride_row + xs[i] * maps.stride_column]);
      values[i] = at < cells ? value : A(-kInfinity);
    }
    f(values, xs, ys);
  }
}

template <class A>
__device__ __forceinline__ void write_soft(const SoftArgs& args, int64_t map, const Moments<A>& m) {
  const int64_t width = args.maps.width, height = args.maps.height;
  const A inverse = A(1) / m.sum;
  const A x = static_cast<A>(width - 1) / A(2) + m.sum_x * inverse;
  const A y = static_cast<A>(height - 1) / A(2) + m.sum_y * inverse;
  A* const xy = static_cast<A*>(args.xy) + 2 * map;
  xy[0] = args.normalized ? normalize(x, width) : x;
  xy[1] = args.normalized ? normalize(y, height) : y;
  if (args.stats != nullptr) {
    A* const stats = static_cast<A*>(args.stats) + 4 * map;
    stats[0] = m.max;
    stats[1] = inverse;
    stats[2] = x;
    stats[3] = y;
  }
}

template <class T, bool kBlockPerMap>
// One block per multiprocessor at least: without the 1 ptxas stops at 64 registers and spills.
__global__ void __launch_bounds__(kThreads, 1) soft_forward(const SoftArgs args, bool packed) {
  using A = Accumulate<T>;
  const MapStack& maps = args.maps;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t count = maps.count();
  const int64_t wanted =
      kBlockPerMap ? blockIdx.x : static_cast<int64_t>(blockIdx.x) * kWarps + warp;
  // Warps without a map of their own repeat the last one and write nothing.
  const int64_t map = wanted < count ? wanted : count - 1;
  const A beta = sharpness<A>(args.beta);
  const A center_x = static_cast<A>(maps.width - 1) / A(2);
  const A center_y = static_cast<A>(maps.height - 1) / A(2);

  Moments<A> m{A(-kInfinity), A(0), A(0), A(0)};
  for_each_four(maps, packed, static_cast<const T*>(args.heatmaps) + maps.offset(map),
                kBlockPerMap ? static_cast<int>(threadIdx.x) : lane, kBlockPerMap ? kThreads : 32,
                [&](const A(&values)[4], const int (&xs)[4], const int (&ys)[4]) {
                  A max = m.max;
                  FK_UNROLL
                  for (int i = 0; i < 4; ++i) max = values[i] > max ? values[i] : max;
                  raise(m, max, beta);
                  FK_UNROLL
                  for (int i = 0; i < 4; ++i) {
                    const A w = weight(values[i], m.max, beta);
                    m.sum += w;
                    m.sum_x += w * (static_cast<A>(xs[i]) - center_x);
                    m.sum_y += w * (static_cast<A>(ys[i]) - center_y);
                  }
                });
  merge_lanes(m, beta);
  if constexpr (kBlockPerMap) {
    FK_SHARED(A, parts, [kWarps][4]);
    if (lane == 0) {
      parts[warp][0] = m.max;
      parts[warp][1] = m.sum;
      parts[warp][2] = m.sum_x;
      parts[warp][3] = m.sum_y;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
#pragma unroll 1
      for (int i = 1; i < kWarps; ++i) {
        merge(m, Moments<A>{parts[i][0], parts[i][1], parts[i][2], parts[i][3]}, beta);
      }
      write_soft(args, map, m);
    }
  } else {
    if (lane == 0 && wanted < count) write_soft(args, map, m);
  }
}

// A thread takes kCount neighbours of one row.
template <class T, int kCount>
__global__ void __launch_bounds__(kThreads) soft_backward(const SoftBackwardArgs args) {
  using A = Accumulate<T>;
  const MapStack& maps = args.maps;
  const int64_t cell = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kCount;
  if (cell >= maps.count() * maps.cells()) return;
  const int64_t map = cell / maps.cells();
  const int inside = static_cast<int>(cell - map * maps.cells());
  const int y = inside / static_cast<int>(maps.width);
  const int x = inside - y * static_cast<int>(maps.width);
  const auto loaded = load_pack<T, kCount>(
      args.heatmaps, maps.offset(map) + y * maps.stride_row + x * maps.stride_column);
  const A* const stats = static_cast<const A*>(args.stats) + 4 * map;
  const A* const d_xy = static_cast<const A*>(args.d_xy) + 2 * map;
  const A beta = sharpness<A>(args.beta);
  const A gx = d_xy[0] * (args.normalized ? normalize_slope<A>(maps.width) : A(1));
  const A gy = d_xy[1] * (args.normalized ? normalize_slope<A>(maps.height) : A(1));
  Pack<T, kCount> result;
  FK_UNROLL
  for (int i = 0; i < kCount; ++i) {
    const A w = weight(widen(loaded.values[i]), stats[0], beta) * stats[1];
    const A d =
        beta * w * ((static_cast<A>(x + i) - stats[2]) * gx + (static_cast<A>(y) - stats[3]) * gy);
    result.values[i] = narrow_to<T>(d);
  }
  store_pack(args.d_heatmaps, cell, result);
}

// ---- centre of mass

template <class A>
struct Peak {
  A value;
  int cell;
};

template <class A>
__device__ __forceinline__ void offer(Peak<A>& best, A value, int cell) {
  if (value > best.value || (value == best.value && cell < best.cell)) best = {value, cell};
}

// One warp per map: argmax over the whole map, then the sums over its window.
template <class T>
__global__ void __launch_bounds__(kThreads) center_forward(const CenterArgs args, bool packed) {
  using A = Accumulate<T>;
  const MapStack& maps = args.maps;
  const int lane = threadIdx.x % 32;
  const int64_t count = maps.count();
  const int64_t wanted = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  const int64_t map = wanted < count ? wanted : count - 1;
  const T* const h = static_cast<const T*>(args.heatmaps) + maps.offset(map);

  // A map without a number above -infinity keeps cell 0, as every lane starts from it.
  Peak<A> best{A(-kInfinity), 0};
  for_each_four(maps, packed, h, lane, 32,
                [&](const A(&values)[4], const int (&xs)[4], const int (&ys)[4]) {
                  FK_UNROLL
                  for (int i = 0; i < 4; ++i) {
                    offer(best, values[i], ys[i] * static_cast<int>(maps.width) + xs[i]);
                  }
                });
  FK_UNROLL
  for (int offset = 16; offset > 0; offset /= 2) {
    const A value = __shfl_xor_sync(0xffffffffu, best.value, offset);
    const int cell = __shfl_xor_sync(0xffffffffu, best.cell, offset);
    offer(best, value, cell);
  }

  const Window window(maps, best.cell, args.radius);
  const int columns = static_cast<int>(window.x1 - window.x0);
  const int64_t cells = (window.y1 - window.y0) * columns;
  A sum = A(0), sum_x = A(0), sum_y = A(0);
  for (int64_t i = lane; i < cells; i += 32) {
    const int dy = static_cast<int>(i) / columns, dx = static_cast<int>(i) - dy * columns;
    const A w = positive_part(
        widen(h[(window.y0 + dy) * maps.stride_row + (window.x0 + dx) * maps.stride_column]));
    sum += w;
    sum_x += w * static_cast<A>(dx);
    sum_y += w * static_cast<A>(dy);
  }
  FK_UNROLL
  for (int offset = 16; offset > 0; offset /= 2) {
    sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    sum_x += __shfl_xor_sync(0xffffffffu, sum_x, offset);
    sum_y += __shfl_xor_sync(0xffffffffu, sum_y, offset);
  }
  if (lane == 0 && wanted < count) {
    center_of(window, maps.width, best.cell, sum, sum_x, sum_y, static_cast<A*>(args.xy) + 2 * map);
    if (args.sum != nullptr) static_cast<A*>(args.sum)[map] = sum;
    if (args.argmax != nullptr) args.argmax[map] = best.cell;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) center_backward(const CenterBackwardArgs args) {
  using A = Accumulate<T>;
  const MapStack& maps = args.maps;
  const int64_t cell = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (cell >= maps.count() * maps.cells()) return;
  const int64_t map = cell / maps.cells();
  const int inside = static_cast<int>(cell - map * maps.cells());
  const int y = inside / static_cast<int>(maps.width);
  const int x = inside - y * static_cast<int>(maps.width);
  A d = A(0);
  if (Window(maps, args.argmax[map], args.radius).contains(x, y)) {
    const A value = widen(static_cast<const T*>(
        args.heatmaps)[maps.offset(map) + y * maps.stride_row + x * maps.stride_column]);
    const A* const xy = static_cast<const A*>(args.xy) + 2 * map;
    const A* const d_xy = static_cast<const A*>(args.d_xy) + 2 * map;
    if (!(value <= A(0))) {
      d = ((static_cast<A>(x) - xy[0]) * d_xy[0] + (static_cast<A>(y) - xy[1]) * d_xy[1]) /
          static_cast<const A*>(args.sum)[map];
    }
  }
  static_cast<T*>(args.d_heatmaps)[cell] = narrow_to<T>(d);
}

template <class T>
bool is_packed(const MapStack& maps, const void* heatmaps) {
  return maps.flat() && maps.width % kPack == 0 &&
         packable<T, kPack>(heatmaps, maps.stride_batch) && maps.stride_channel % kPack == 0;
}

}  // namespace

void soft_cuda(const SoftArgs& args, Stream stream) {
  dispatch_floating<__half, __nv_bfloat16>(args.dtype, [&]<class T>() {
    const bool packed = is_packed<T>(args.maps, args.heatmaps);
    if (args.maps.cells() <= kCellsOfWarp) {
      launch("soft_argmax::soft_forward", blocks_for(args.maps.count() * 32, kThreads), kThreads, 0,
             stream, soft_forward<T, false>, args, packed);
    } else {
      launch("soft_argmax::soft_forward", blocks_for(args.maps.count(), 1), kThreads, 0, stream,
             soft_forward<T, true>, args, packed);
    }
  });
}

void soft_backward_cuda(const SoftBackwardArgs& args, Stream stream) {
  const int64_t cells = args.maps.count() * args.maps.cells();
  dispatch_floating<__half, __nv_bfloat16>(args.dtype, [&]<class T>() {
    const bool packed =
        is_packed<T>(args.maps, args.heatmaps) && packable<T, kPack>(args.d_heatmaps, 0);
    launch("soft_argmax::soft_backward", blocks_for(packed ? cells / kPack : cells, kThreads),
           kThreads, 0, stream, packed ? soft_backward<T, kPack> : soft_backward<T, 1>, args);
  });
}

void center_cuda(const CenterArgs& args, Stream stream) {
  const dim3 grid = blocks_for(args.maps.count() * 32, kThreads);
  dispatch_floating<__half, __nv_bfloat16>(args.dtype, [&]<class T>() {
    launch("soft_argmax::center_forward", grid, kThreads, 0, stream, center_forward<T>, args,
           is_packed<T>(args.maps, args.heatmaps));
  });
}

void center_backward_cuda(const CenterBackwardArgs& args, Stream stream) {
  const dim3 grid = blocks_for(args.maps.count() * args.maps.cells(), kThreads);
  dispatch_floating<__half, __nv_bfloat16>(args.dtype, [&]<class T>() {
    launch("soft_argmax::center_backward", grid, kThreads, 0, stream, center_backward<T>, args);
  });
}

}  // namespace facekernels::soft_argmax
