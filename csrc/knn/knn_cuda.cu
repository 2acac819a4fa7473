// The database is visited in stripes of columns. For each stripe, a tiled product compares its
// scores in registers with the queries' thresholds and appends what is above; then a block per
// query sorts its candidates, keeps what may still be a neighbour and raises the threshold. A query
// whose stripe brought more than fits visits it again with the threshold that those gave.
#include <algorithm>

#include "core/cuda_dtype.cuh"
#include "core/device.cuh"
#include "knn/knn.h"
#include "knn/knn_math.h"
#include "knn/knn_tiles.cuh"

namespace facekernels::knn {
namespace {

constexpr int kThreads = 256;
constexpr int kTilesPerBlock = 4;  // of columns: the copies of one run behind the products before
constexpr int kSortThreads = 128;
constexpr int kVisits = 4;  // of a stripe
constexpr int64_t kMaxStripe = 1 << 20;
constexpr unsigned kWarp = 0xffffffffu;

// overflow while the search runs: how the query stands after a visit of a stripe.
constexpr uint8_t kDone = 0, kLost = 1, kAgain = 2;

struct Stripe {
  int64_t begin, end;
  bool again;  // only queries marked kAgain
  bool last;   // those that still bring too many are lost
};

__device__ __forceinline__ bool visits(const Stripe& stripe, uint8_t state) {
  return state == (stripe.again ? kAgain : kDone);
}

// What a score must be above to count for query q. Without a branch, so that many loads are under
// way at once.
__device__ __forceinline__ float limit(const SearchArgs& args, const Stripe& stripe, int64_t q) {
  const int64_t at = min(q, args.queries.count - 1);
  const uint8_t state = args.overflow[at];
  const float threshold = args.threshold[at];
  return at == q && visits(stripe, state) ? threshold : HUGE_VALF;
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

// Which of a thread's scores in its row i count: bit j stands for column j.
template <class Tile>
__device__ __forceinline__ unsigned hits_of(const SearchArgs& args, const Stripe& stripe,
                                            const Tile& tile, int i, float limit, int64_t row,
                                            int64_t column) {
  unsigned hits = 0;
  FK_UNROLL
  for (int j = 0; j < Tile::kOwnColumns; ++j) {
    if (tile.score(i, j) > limit) hits |= 1u << j;
  }
  const int64_t itself = row + Tile::row(i) + args.self_offset - column;
  const bool meets_itself = args.self_offset >= 0 && itself >= 0 && itself < Tile::kColumns;
  if (meets_itself || stripe.end - column < Tile::kColumns) {
    FK_UNROLL
    for (int j = 0; j < Tile::kOwnColumns; ++j) {
      const int at = Tile::column(j);
      if ((meets_itself && at == itself) || column + at >= stripe.end) hits &= ~(1u << j);
    }
  }
  return hits;
}

// Appends the scores of the tile at `row`, `column` that are above their query's limit: one atomic
// for the lanes of a query, and those of all queries under way before the first is waited for.
template <class Tile>
__device__ __forceinline__ void append(const SearchArgs& args, const Stripe& stripe,
                                       const Tile& tile, int64_t row, int64_t column) {
  constexpr int kRows = Tile::kOwnRows, kLast = Tile::kLanesPerRow - 1;
  float limits[kRows];
  FK_UNROLL
  for (int i = 0; i < kRows; ++i) limits[i] = limit(args, stripe, row + Tile::row(i));
  bool any = false;
  FK_UNROLL
  for (int i = 0; i < kRows; ++i) {
    FK_UNROLL
    for (int j = 0; j < Tile::kOwnColumns; ++j) any |= tile.score(i, j) > limits[i];
  }
  if (!__any_sync(kWarp, any)) return;

  const int lane = static_cast<int>(threadIdx.x) % Tile::kLanesPerRow;
  unsigned hits[kRows];
  int first[kRows], until[kRows];  // of this lane and those before
  FK_UNROLL
  for (int i = 0; i < kRows; ++i) {
    hits[i] = hits_of(args, stripe, tile, i, limits[i], row, column);
    until[i] = __popc(hits[i]);
    FK_UNROLL
    for (int offset = 1; offset < Tile::kLanesPerRow; offset *= 2) {
      const int before = __shfl_up_sync(kWarp, until[i], offset, Tile::kLanesPerRow);
      if (lane >= offset) until[i] += before;
    }
    first[i] = 0;
    if (lane == kLast && until[i] > 0) {
      first[i] = atomicAdd(&args.candidate_count[row + Tile::row(i)], until[i]);
    }
  }
  FK_UNROLL
  for (int i = 0; i < kRows; ++i) {
    int64_t at = __shfl_sync(kWarp, first[i], kLast, Tile::kLanesPerRow) + until[i];
    if (!hits[i]) continue;
    at -= __popc(hits[i]);
    const int64_t list = (row + Tile::row(i)) * args.capacity;
    FK_UNROLL
    for (int j = 0; j < Tile::kOwnColumns; ++j) {
      if (!(hits[i] >> j & 1)) continue;
      if (at < args.capacity) {
        args.candidate_score[list + at] = tile.score(i, j);
        args.candidate_index[list + at] = static_cast<int32_t>(column + Tile::column(j));
      }
      ++at;
    }
  }
}

template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    filter(const SearchArgs args, const Stripe stripe) {
  constexpr int64_t kSpan = int64_t{kTilesPerBlock} * Tile::kColumns;
  const int64_t begin = stripe.begin + blockIdx.y * kSpan;
  const Span span{blockIdx.x * int64_t{Tile::kRows}, begin, min(begin + kSpan, stripe.end)};
  const int thread = static_cast<int>(threadIdx.x);
  const bool counts = thread < Tile::kRows && limit(args, stripe, span.row + thread) < HUGE_VALF;
  if (!__syncthreads_or(counts)) return;  // the whole block
  Tile tile(args, span);
  for (int64_t column = span.begin; column < span.end; column += Tile::kColumns) {
    tile.multiply();
    append(args, stripe, tile, span.row, column);
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
  if (!visits(stripe, args.overflow[q])) return;  // the whole block
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

template <class Tile>
void filter_stripes(const SearchArgs& args, Stream stream) {
  const int64_t queries = args.queries.count, rows = args.database.count;
  constexpr int64_t kSpan = int64_t{kTilesPerBlock} * Tile::kColumns;
  const unsigned row_tiles = static_cast<unsigned>((queries + Tile::kRows - 1) / Tile::kRows);
  // The first stripe fits whatever it holds; each further one is as wide as all before it, which in
  // random order brings k candidates on average.
  int64_t width = args.capacity;
  for (int64_t begin = 0; begin < rows; begin += width) {
    if (begin > 0) width = std::min(begin, kMaxStripe);
    Stripe stripe{begin, std::min(begin + width, rows), false, false};
    const dim3 blocks(row_tiles,  // x, which may be large
                      static_cast<unsigned>((stripe.end - begin + kSpan - 1) / kSpan));
    for (int visit = 0; visit < kVisits; ++visit) {
      stripe.again = visit > 0;
      stripe.last = visit + 1 == kVisits;
      launch("knn::filter", blocks, Tile::kThreads, 0, stream, filter<Tile>, args, stripe);
      launch("knn::compact", dim3(static_cast<unsigned>(queries)), kSortThreads, 0, stream, compact,
             args, stripe);
    }
  }
}

}  // namespace

void search_cuda(const SearchArgs& args, Stream stream) {
  const int64_t queries = args.queries.count;
  launch("knn::start", blocks_for(queries, kThreads), kThreads, 0, stream, start, args);
  args.queries.halves ? filter_stripes<HalfTile>(args, stream)
                      : filter_stripes<FloatTile>(args, stream);
  const dim3 per_query(static_cast<unsigned>(queries));
  args.dtype == DType::kFloat64
      ? launch("knn::finish", per_query, kSortThreads, 0, stream, finish<double>, args)
      : launch("knn::finish", per_query, kSortThreads, 0, stream, finish<float>, args);
}

}  // namespace facekernels::knn
