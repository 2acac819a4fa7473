// The database is visited in stripes of columns. For each stripe, a tiled product compares its
// scores in registers with the queries' thresholds and appends what is above; then a block per
// query sorts its candidates, keeps what may still be a neighbour and raises the threshold. A query
// whose stripe brought more than fits visits it again with the threshold that those gave.
#include <algorithm>

#include "core/cuda_dtype.cuh"
#include "core/device.cuh"
#include "knn/knn.h"
#include "knn/knn_math.h"

namespace facekernels::knn {
namespace {

constexpr int kThreads = 256;
constexpr int kTile = 128;   // queries and columns of a block
constexpr int kDepth = 8;    // elements of one step
constexpr int kPerSide = 8;  // rows and columns of a thread
constexpr int kLanes = kTile / kPerSide;
constexpr int kSortThreads = 128;
constexpr int kVisits = 4;  // of a stripe
constexpr int64_t kMaxStripe = 8192;

// overflow while the search runs: how the query stands after a visit of a stripe.
constexpr uint8_t kDone = 0, kLost = 1, kAgain = 2;

struct Stripe {
  int64_t begin, end;
  bool again;  // only queries marked kAgain
  bool last;   // those that still bring too many are lost
};

__device__ __forceinline__ bool visits(const SearchArgs& args, const Stripe& stripe, int64_t q) {
  return args.overflow[q] == (stripe.again ? kAgain : kDone);
}

__device__ __forceinline__ float next_below(float x) {
  const int bits = static_cast<int>(__float_as_uint(x));
  if (x == 0.0f) return __uint_as_float(0x80000001u);
  return __uint_as_float(static_cast<unsigned>(x > 0.0f ? bits - 1 : bits + 1));
}

__global__ void __launch_bounds__(kThreads, 1) start(const SearchArgs args) {
  const int64_t q = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (q >= args.queries.count) return;
  args.candidate_count[q] = 0;
  args.threshold[q] = -HUGE_VALF;
  args.overflow[q] = kDone;
}

// Thread (ty, tx) owns rows ty + 16 i and columns tx + 16 j of the tile: neighbours in a warp read
// neighbouring words of shared memory.
__global__ void __launch_bounds__(kThreads, 1) filter(const SearchArgs args, const Stripe stripe) {
  FK_SHARED(float, rows, [kDepth][kTile + 4]);
  FK_SHARED(float, columns, [kDepth][kTile + 4]);
  FK_SHARED(float, limits, [kTile]);
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t row = blockIdx.x * int64_t{kTile};
  const int64_t column = stripe.begin + blockIdx.y * int64_t{kTile};
  bool counts = false;
  if (thread < kTile) {
    const int64_t q = row + thread;
    counts = q < args.queries.count && visits(args, stripe, q);
    limits[thread] = counts ? args.threshold[q] : HUGE_VALF;
  }
  if (!__syncthreads_or(counts)) return;  // the whole block

  const int ty = thread / kLanes, tx = thread % kLanes;
  float sums[kPerSide][kPerSide] = {};
  for (int64_t first = 0; first < args.filter_dim; first += kDepth) {
    for (int i = thread; i < kTile * kDepth; i += kThreads) {
      const int r = i / kDepth, d = i % kDepth;
      const bool inside = first + d < args.filter_dim;
      const int64_t at = first + d;
      rows[d][r] = inside && row + r < args.queries.count
                       ? args.queries.filter[(row + r) * args.filter_dim + at]
                       : 0.0f;
      columns[d][r] = inside && column + r < stripe.end
                          ? args.database.filter[(column + r) * args.filter_dim + at]
                          : 0.0f;
    }
    __syncthreads();
    FK_UNROLL
    for (int d = 0; d < kDepth; ++d) {
      float a[kPerSide], b[kPerSide];
      FK_UNROLL
      for (int i = 0; i < kPerSide; ++i) a[i] = rows[d][ty + kLanes * i];
      FK_UNROLL
      for (int j = 0; j < kPerSide; ++j) b[j] = columns[d][tx + kLanes * j];
      FK_UNROLL
      for (int i = 0; i < kPerSide; ++i) {
        FK_UNROLL
        for (int j = 0; j < kPerSide; ++j) sums[i][j] += a[i] * b[j];
      }
    }
    __syncthreads();
  }

  FK_UNROLL
  for (int i = 0; i < kPerSide; ++i) {
    const float limit = limits[ty + kLanes * i];
    const int64_t q = row + ty + kLanes * i;
    FK_UNROLL
    for (int j = 0; j < kPerSide; ++j) {
      const int64_t x = column + tx + kLanes * j;
      if (!(sums[i][j] > limit) || x >= stripe.end) continue;
      if (args.self_offset >= 0 && x == q + args.self_offset) continue;
      const int at = atomicAdd(&args.candidate_count[q], 1);
      if (at >= args.capacity) continue;
      args.candidate_score[q * args.capacity + at] = sums[i][j];
      args.candidate_index[q * args.capacity + at] = static_cast<int32_t>(x);
    }
  }
}

// Ascending in `before`, in place, by all threads of the block; size is a power of two.
template <class Before, class Swap>
__device__ __forceinline__ void bitonic_sort(int size, Before before, Swap swap) {
  for (int run = 2; run <= size; run *= 2) {
    for (int stride = run / 2; stride > 0; stride /= 2) {
      __syncthreads();
      for (int i = static_cast<int>(threadIdx.x); i < size / 2; i += kSortThreads) {
        const int low = 2 * stride * (i / stride) + i % stride, high = low + stride;
        const bool ascending = (low & run) == 0;
        if (ascending ? before(high, low) : before(low, high)) swap(low, high);
      }
    }
  }
  __syncthreads();
}

__device__ __forceinline__ int power_of_two(int count) {
  int size = 2;
  while (size < count) size *= 2;
  return size;
}

// After a stripe: candidates best first, those out of reach dropped, the threshold raised.
__global__ void __launch_bounds__(kSortThreads, 1)
    compact(const SearchArgs args, const Stripe stripe) {
  FK_SHARED(float, scores, [kMaxCudaCapacity]);
  FK_SHARED(int, indices, [kMaxCudaCapacity]);
  const int64_t q = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x);
  if (!visits(args, stripe, q)) return;  // the whole block
  float* const candidate_score = args.candidate_score + q * args.capacity;
  int32_t* const candidate_index = args.candidate_index + q * args.capacity;
  const int found = args.candidate_count[q];
  const bool too_many = found > args.capacity;
  const int count = too_many ? static_cast<int>(args.capacity) : found;
  const int size = power_of_two(count);
  for (int i = thread; i < size; i += kSortThreads) {
    scores[i] = i < count ? candidate_score[i] : -HUGE_VALF;
    indices[i] = i < count ? candidate_index[i] : 0x7fffffff;
  }
  bitonic_sort(
      size,
      [&](int a, int b) {
        return scores[a] > scores[b] || (scores[a] == scores[b] && indices[a] < indices[b]);
      },
      [&](int a, int b) {
        const float score = scores[a];
        const int index = indices[a];
        scores[a] = scores[b];
        indices[a] = indices[b];
        scores[b] = score;
        indices[b] = index;
      });
  const int k = static_cast<int>(args.k);
  const float above = count >= k ? next_below(scores[k - 1] - args.slack[q]) : -HUGE_VALF;
  if (!too_many) {  // sorted by score, so the kept ones are a prefix
    for (int i = thread; i < count && scores[i] > above; i += kSortThreads) {
      candidate_score[i] = scores[i];
      candidate_index[i] = indices[i];
      if (i + 1 == count || !(scores[i + 1] > above)) args.candidate_count[q] = i + 1;
    }
  } else if (thread == 0) {  // rare: all but this stripe's, which is visited again
    int kept = 0;
    for (int i = 0; i < count && scores[i] > above; ++i) {
      if (indices[i] >= stripe.begin) continue;
      candidate_score[kept] = scores[i];
      candidate_index[kept++] = indices[i];
    }
    args.candidate_count[q] = kept;
  }
  if (thread == 0) {
    args.threshold[q] = above;
    args.overflow[q] = !too_many ? kDone : stripe.last ? kLost : kAgain;
  }
}

// A block per query, a warp per candidate.
template <class T>
__global__ void __launch_bounds__(kSortThreads, 1) finish(const SearchArgs args) {
  FK_SHARED(double, scores, [kMaxCudaCapacity]);
  FK_SHARED(int, indices, [kMaxCudaCapacity]);
  const int64_t q = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  if (args.overflow[q] != kDone) return;  // the whole block
  const int count = args.candidate_count[q], size = power_of_two(count);
  const T* const a = static_cast<const T*>(args.queries.exact) + q * args.dim;
  for (int i = warp; i < size; i += kSortThreads / 32) {
    double sum = -HUGE_VAL;
    const int index = i < count ? args.candidate_index[q * args.capacity + i] : 0x7fffffff;
    if (i < count) {
      const T* const b = static_cast<const T*>(args.database.exact) + index * args.dim;
      sum = 0.0;
      for (int64_t d = lane; d < args.dim; d += kPartialSums) sum += term(args.metric, a[d], b[d]);
      FK_UNROLL
      for (int offset = kPartialSums / 2; offset > 0; offset /= 2) {
        sum += __shfl_xor_sync(0xffffffffu, sum, offset);
      }
      sum = scaled(sum, args.queries, q, args.database, index);
    }
    if (lane == 0) {
      scores[i] = sum;
      indices[i] = index;
    }
  }
  bitonic_sort(
      size,
      [&](int i, int j) {
        return scores[i] > scores[j] || (scores[i] == scores[j] && indices[i] < indices[j]);
      },
      [&](int i, int j) {
        const double score = scores[i];
        const int index = indices[i];
        scores[i] = scores[j];
        indices[i] = indices[j];
        scores[j] = score;
        indices[j] = index;
      });
  for (int64_t i = thread; i < args.k; i += kSortThreads) {
    args.index[q * args.k + i] = indices[i];
    args.score[q * args.k + i] = static_cast<float>(scores[i]);
  }
}

}  // namespace

void search_cuda(const SearchArgs& args, Stream stream) {
  const int64_t queries = args.queries.count, rows = args.database.count;
  launch("knn::start", blocks_for(queries, kThreads), kThreads, 0, stream, start, args);
  const dim3 per_query(static_cast<unsigned>(queries));
  const unsigned row_tiles = static_cast<unsigned>((queries + kTile - 1) / kTile);
  // The first stripe fits whatever it holds; each further one is as wide as all before it, which in
  // random order brings at most k candidates on average.
  int64_t width = std::max<int64_t>(args.capacity / kTile, 1) * kTile;
  for (int64_t begin = 0; begin < rows; begin += width) {
    if (begin > 0) width = std::min(begin, kMaxStripe);
    Stripe stripe{begin, std::min(begin + width, rows), false, false};
    const dim3 tiles(row_tiles,  // x, which may be large
                     static_cast<unsigned>((stripe.end - begin + kTile - 1) / kTile));
    for (int visit = 0; visit < kVisits; ++visit) {
      stripe.again = visit > 0;
      stripe.last = visit + 1 == kVisits;
      launch("knn::filter", tiles, kThreads, 0, stream, filter, args, stripe);
      launch("knn::compact", per_query, kSortThreads, 0, stream, compact, args, stripe);
    }
  }
  args.dtype == DType::kFloat64
      ? launch("knn::finish", per_query, kSortThreads, 0, stream, finish<double>, args)
      : launch("knn::finish", per_query, kSortThreads, 0, stream, finish<float>, args);
}

}  // namespace facekernels::knn
