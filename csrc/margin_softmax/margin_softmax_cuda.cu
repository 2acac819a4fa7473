// Tiles of 64 x 64 sums of products in registers, their operands staged in shared memory. Sums over
// classes are cut into splits by the sizes alone, and added in order: no atomics. The backward pass
// keeps the gradients of a chunk of cosines; it goes over the classes chunk by chunk.
#include "core/cuda_dtype.cuh"
#include "core/device.cuh"
#include "margin_softmax/margin_softmax.h"
#include "margin_softmax/margin_softmax_math.h"

namespace facekernels::margin_softmax {
namespace {

constexpr int kThreads = 256;
constexpr int kOwn = 4;                // rows and columns of a thread's sums
constexpr int kAcross = kTile / kOwn;  // threads along a side
constexpr int kDepth = 16;             // products of one stage
constexpr unsigned kWarp = 0xffffffffu;
static_assert(kAcross * kAcross == kThreads);

__device__ __forceinline__ int own_row(int i) {
  return static_cast<int>(threadIdx.x) / kAcross + kAcross * i;
}
__device__ __forceinline__ int own_column(int j) {
  return static_cast<int>(threadIdx.x) % kAcross + kAcross * j;
}

__device__ __forceinline__ float exp_of(float x) {
  return expf(x);
}
__device__ __forceinline__ double exp_of(double x) {
  return exp(x);
}

template <class A>
__device__ __forceinline__ A clamped(A x) {  // a NaN passes
  x = x > A(1) ? A(1) : x;
  return x < A(-1) ? A(-1) : x;
}

// Which of two indices neighbouring threads should walk when they read an operand.
enum class Walk { kDepth, kSide };

template <class A>
struct Stage {
  A values[kDepth][kTile + 4];

  // value(side, depth), both counted from the stage's corner.
  template <Walk kWalk, class Value>
  __device__ __forceinline__ void fill(Value value) {
    for (int i = static_cast<int>(threadIdx.x); i < kTile * kDepth; i += kThreads) {
      const int side = kWalk == Walk::kDepth ? i / kDepth : i % kTile;
      const int depth = kWalk == Walk::kDepth ? i % kDepth : i / kTile;
      values[depth][side] = value(side, depth);
    }
  }
};

template <class A>
struct Tile {
  A sums[kOwn][kOwn];

  __device__ __forceinline__ void clear() {
    FK_UNROLL
    for (int i = 0; i < kOwn; ++i) {
      FK_UNROLL
      for (int j = 0; j < kOwn; ++j) sums[i][j] = A(0);
    }
  }

  // sums[i][j] += sum_k row(i, k) column(j, k), k below `depth`. The operands return 0 outside.
  template <Walk kRowWalk, Walk kColumnWalk, class Row, class Column>
  __device__ __forceinline__ void multiply(int64_t depth, Row row, Column column) {
    FK_SHARED(Stage<A>, rows, );
    FK_SHARED(Stage<A>, columns, );
    for (int64_t first = 0; first < depth; first += kDepth) {
      rows.template fill<kRowWalk>(
          [&](int side, int k) { return first + k < depth ? row(side, first + k) : A(0); });
      columns.template fill<kColumnWalk>(
          [&](int side, int k) { return first + k < depth ? column(side, first + k) : A(0); });
      __syncthreads();
      FK_UNROLL
      for (int k = 0; k < kDepth; ++k) {
        A a[kOwn], b[kOwn];
        FK_UNROLL
        for (int i = 0; i < kOwn; ++i) a[i] = rows.values[k][own_row(i)];
        FK_UNROLL
        for (int j = 0; j < kOwn; ++j) b[j] = columns.values[k][own_column(j)];
        FK_UNROLL
        for (int i = 0; i < kOwn; ++i) {
          FK_UNROLL
          for (int j = 0; j < kOwn; ++j) sums[i][j] += a[i] * b[j];
        }
      }
      __syncthreads();
    }
  }
};

// Element d of embedding b and of the weights of class v; 0 past the last row. Rows
// in the index that do not exist are NaN: the host has not looked at them.
template <class T, class A = Accumulate<T>>
__device__ __forceinline__ A embedding(const Rows& rows, int64_t b, int64_t d) {
  if (b >= rows.batch) return A(0);
  return widen(static_cast<const T*>(rows.embeddings)[b * rows.dim + d]);
}
template <class T, class A = Accumulate<T>>
__device__ __forceinline__ A weight(const Rows& rows, int64_t v, int64_t d) {
  if (v >= rows.classes) return A(0);
  const int64_t row = rows.row_of(v);
  if (rows.index && !is_class(row, rows.weights)) return static_cast<A>(NAN);
  return widen(static_cast<const T*>(rows.weight)[row * rows.dim + d]);
}

// A warp per row: the embeddings, then the weights.
template <class T>
__global__ void __launch_bounds__(kThreads, 2) norms(const ForwardArgs args) {
  using A = Accumulate<T>;
  const Rows& rows = args.rows;
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / 32;
  if (row >= rows.batch + rows.classes) return;
  A sum = 0;
  for (int64_t d = threadIdx.x % 32; d < rows.dim; d += 32) {
    const A x =
        row < rows.batch ? embedding<T>(rows, row, d) : weight<T>(rows, row - rows.batch, d);
    sum += x * x;
  }
  FK_UNROLL
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(kWarp, sum, offset);
  if (threadIdx.x % 32 == 0) static_cast<A*>(args.inverse_norms)[row] = inverse_norm(sum);
}

// A split of the classes for 64 rows of the batch: the largest logit and the sum of exponentials.
template <class T>
__global__ void __launch_bounds__(kThreads, 2) sum_exponentials(const ForwardArgs args) {
  using A = Accumulate<T>;
  const Rows& rows = args.rows;
  const A* const inverse = static_cast<const A*>(args.inverse_norms);
  const A scale = static_cast<A>(rows.scale);
  const int64_t row = static_cast<int64_t>(blockIdx.y) * kTile;
  const int64_t tiles = (rows.classes + kTile - 1) / kTile;
  const int64_t begin = tiles * blockIdx.x / args.splits;
  const int64_t end = tiles * (blockIdx.x + 1) / args.splits;
  A largest[kOwn], sum[kOwn], norm[kOwn];
  int64_t label[kOwn];
  FK_UNROLL
  for (int i = 0; i < kOwn; ++i) {
    const int64_t b = row + own_row(i);
    largest[i] = -scale;  // no logit is smaller, so differences stay finite
    sum[i] = A(0);
    norm[i] = b < rows.batch ? inverse[b] : A(0);
    label[i] = b < rows.batch ? rows.labels[b] : -1;
  }
  for (int64_t t = begin; t < end; ++t) {
    const int64_t first = t * kTile;
    Tile<A> tile;
    tile.clear();
    tile.template multiply<Walk::kDepth, Walk::kDepth>(
        rows.dim, [&](int side, int64_t d) { return embedding<T>(rows, row + side, d); },
        [&](int side, int64_t d) { return weight<T>(rows, first + side, d); });
    FK_UNROLL
    for (int j = 0; j < kOwn; ++j) {
      const int64_t v = first + own_column(j);
      if (v >= rows.classes) continue;
      const A class_norm = inverse[rows.batch + v];
      FK_UNROLL
      for (int i = 0; i < kOwn; ++i) {
        const A cos = clamped(tile.sums[i][j] * norm[i] * class_norm);
        if (v == label[i]) {
          static_cast<A*>(args.target)[row + own_row(i)] = cos;
          continue;
        }
        const A logit = cos * scale;
        if (logit > largest[i]) {
          sum[i] *= exp_of(largest[i] - logit);
          largest[i] = logit;
        }
        sum[i] += exp_of(logit - largest[i]);
      }
    }
  }
  FK_UNROLL
  for (int i = 0; i < kOwn; ++i) {
    FK_UNROLL
    for (int offset = kAcross / 2; offset > 0; offset /= 2) {
      const A other_largest = __shfl_xor_sync(kWarp, largest[i], offset);
      const A other_sum = __shfl_xor_sync(kWarp, sum[i], offset);
      const A both = other_largest > largest[i] ? other_largest : largest[i];
      sum[i] = sum[i] * exp_of(largest[i] - both) + other_sum * exp_of(other_largest - both);
      largest[i] = both;
    }
    const int64_t b = row + own_row(i);
    if (own_column(0) == 0 && b < rows.batch) {
      A* const partial = static_cast<A*>(args.partial) + blockIdx.x * 2 * rows.batch;
      partial[b] = largest[i];
      partial[rows.batch + b] = sum[i];
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2) finish_rows(const ForwardArgs args) {
  using A = Accumulate<T>;
  const Rows& rows = args.rows;
  const int64_t b = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (b >= rows.batch) return;
  const A* const partial = static_cast<const A*>(args.partial);
  A largest = -static_cast<A>(rows.scale), sum = 0;
  for (int64_t split = 0; split < args.splits; ++split) {
    const A other = partial[split * 2 * rows.batch + b];
    largest = other > largest ? other : largest;
  }
  for (int64_t split = 0; split < args.splits; ++split) {
    const A* const of_split = partial + split * 2 * rows.batch;
    sum += of_split[rows.batch + b] * exp_of(of_split[b] - largest);
  }
  static_cast<A*>(args.lse)[b] = largest + log(sum);
  if (!is_class(rows.labels[b], rows.classes)) {
    static_cast<A*>(args.target)[b] = no_target<A>(rows.labels[b]);
  }
}

// The cosines' gradients, by the classes' norms, of a tile of classes [chunk_first, ...).
template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    differentiate(const BackwardArgs args, const int64_t chunk_first) {
  using A = Accumulate<T>;
  const Rows& rows = args.rows;
  const A* const inverse = static_cast<const A*>(args.inverse_norms);
  const A scale = static_cast<A>(rows.scale);
  const int64_t local = static_cast<int64_t>(blockIdx.x) * kTile, first = chunk_first + local;
  A along[kOwn] = {};
  for (int64_t row = 0; row < rows.batch; row += kTile) {
    Tile<A> tile;
    tile.clear();
    tile.template multiply<Walk::kDepth, Walk::kDepth>(
        rows.dim, [&](int side, int64_t d) { return weight<T>(rows, first + side, d); },
        [&](int side, int64_t d) { return embedding<T>(rows, row + side, d); });
    FK_UNROLL
    for (int j = 0; j < kOwn; ++j) {
      const int64_t b = row + own_column(j);
      if (b >= rows.batch) continue;
      const A norm = inverse[b], lse = static_cast<const A*>(args.lse)[b];
      const A factor = static_cast<const A*>(args.d_lse)[b] * scale;
      FK_UNROLL
      for (int i = 0; i < kOwn; ++i) {
        const int64_t v = first + own_row(i);
        if (v >= rows.classes) continue;
        const A class_norm = inverse[rows.batch + v];
        const A raw = tile.sums[i][j] * norm * class_norm, cos = clamped(raw);
        A d = v == rows.labels[b] ? static_cast<const A*>(args.d_target)[b]
                                  : factor * exp_of(cos * scale - lse);
        if (raw > A(1) || raw < A(-1)) d = A(0);
        along[i] += d * cos;
        static_cast<A*>(args.d_cos)[(local + own_row(i)) * rows.batch + b] = d * class_norm;
      }
    }
  }
  FK_UNROLL
  for (int i = 0; i < kOwn; ++i) {
    FK_UNROLL
    for (int offset = kAcross / 2; offset > 0; offset /= 2) {
      along[i] += __shfl_xor_sync(kWarp, along[i], offset);
    }
    if (own_column(0) == 0 && first + own_row(i) < rows.classes) {
      static_cast<A*>(args.d_cos_cos)[local + own_row(i)] = along[i];
    }
  }
}

// d_weight of a chunk: a block owns a tile of classes and elements.
template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    weight_gradient(const BackwardArgs args, const int64_t chunk_first) {
  using A = Accumulate<T>;
  const Rows& rows = args.rows;
  const A* const inverse = static_cast<const A*>(args.inverse_norms);
  const int64_t local = static_cast<int64_t>(blockIdx.x) * kTile;
  const int64_t element = static_cast<int64_t>(blockIdx.y) * kTile;
  Tile<A> tile;
  tile.clear();
  tile.template multiply<Walk::kDepth, Walk::kSide>(
      rows.batch,
      [&](int side, int64_t b) {
        if (chunk_first + local + side >= rows.classes) return A(0);
        return static_cast<const A*>(args.d_cos)[(local + side) * rows.batch + b];
      },
      [&](int side, int64_t b) {
        return element + side < rows.dim ? embedding<T>(rows, b, element + side) * inverse[b]
                                         : A(0);
      });
  FK_UNROLL
  for (int i = 0; i < kOwn; ++i) {
    const int64_t v = chunk_first + local + own_row(i);
    if (v >= rows.classes) continue;
    const A norm = inverse[rows.batch + v];
    const A sum = static_cast<const A*>(args.d_cos_cos)[local + own_row(i)];
    const A along = norm_counts(norm) ? sum * norm * norm : A(0);
    FK_UNROLL
    for (int j = 0; j < kOwn; ++j) {
      const int64_t d = element + own_column(j);
      if (d >= rows.dim) continue;
      static_cast<T*>(args.d_weight)[v * rows.dim + d] =
          narrow_to<T>(tile.sums[i][j] - weight<T>(rows, v, d) * along);
    }
  }
}

// partial[split] += what a split of the chunk gives to a tile of embeddings and elements.
template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    add_embedding_gradient(const BackwardArgs args, const int64_t chunk_first) {
  using A = Accumulate<T>;
  const Rows& rows = args.rows;
  const int64_t element = static_cast<int64_t>(blockIdx.x) * kTile;
  const int64_t row = static_cast<int64_t>(blockIdx.y) * kTile;
  const int64_t left = rows.classes - chunk_first;
  const int64_t size = left < args.chunk ? left : args.chunk;
  const int64_t begin = size * blockIdx.z / args.splits;
  const int64_t end = size * (blockIdx.z + 1) / args.splits;
  Tile<A> tile;
  tile.clear();
  tile.template multiply<Walk::kSide, Walk::kSide>(
      end - begin,
      [&](int side, int64_t c) {
        if (row + side >= rows.batch) return A(0);
        return static_cast<const A*>(args.d_cos)[(begin + c) * rows.batch + row + side];
      },
      [&](int side, int64_t c) {
        return element + side < rows.dim ? weight<T>(rows, chunk_first + begin + c, element + side)
                                         : A(0);
      });
  A* const partial = static_cast<A*>(args.partial) + blockIdx.z * rows.batch * rows.dim;
  FK_UNROLL
  for (int i = 0; i < kOwn; ++i) {
    FK_UNROLL
    for (int j = 0; j < kOwn; ++j) {
      const int64_t b = row + own_row(i), d = element + own_column(j);
      if (b >= rows.batch || d >= rows.dim) continue;
      A& sum = partial[b * rows.dim + d];
      sum = chunk_first == 0 ? tile.sums[i][j] : sum + tile.sums[i][j];
    }
  }
}

// A warp per embedding: the splits in order, less what lies along the embedding itself.
template <class T>
__global__ void __launch_bounds__(kThreads, 2) finish_embeddings(const BackwardArgs args) {
  using A = Accumulate<T>;
  const Rows& rows = args.rows;
  const int64_t b = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / 32;
  if (b >= rows.batch) return;
  const A norm = static_cast<const A*>(args.inverse_norms)[b];
  A* const total = static_cast<A*>(args.partial) + b * rows.dim;
  A dot = 0;
#pragma unroll 1
  for (int64_t d = threadIdx.x % 32; d < rows.dim; d += 32) {
    A sum = 0;
#pragma unroll 1
    for (int64_t split = 0; split < args.splits; ++split) {
      sum += total[split * rows.batch * rows.dim + d];
    }
    total[d] = sum;
    dot += sum * embedding<T>(rows, b, d) * norm;
  }
  FK_UNROLL
  for (int offset = 16; offset > 0; offset /= 2) dot += __shfl_xor_sync(kWarp, dot, offset);
  if (!norm_counts(norm)) dot = A(0);
#pragma unroll 1
  for (int64_t d = threadIdx.x % 32; d < rows.dim; d += 32) {
    const A unit = embedding<T>(rows, b, d) * norm;
    static_cast<T*>(args.d_embeddings)[b * rows.dim + d] =
        narrow_to<T>((total[d] - unit * dot) * norm);
  }
}

unsigned tiles_of(int64_t size) {
  return static_cast<unsigned>((size + kTile - 1) / kTile);
}

}  // namespace

void forward_cuda(const ForwardArgs& args, Stream stream) {
  const Rows& rows = args.rows;
  dispatch_floating<__half, __nv_bfloat16>(rows.dtype, [&]<class T>() {
    launch("margin_softmax::norms", blocks_for(32 * (rows.batch + rows.classes), kThreads),
           kThreads, 0, stream, norms<T>, args);
    const dim3 grid(static_cast<unsigned>(args.splits), tiles_of(rows.batch));
    launch("margin_softmax::sum_exponentials", grid, kThreads, 0, stream, sum_exponentials<T>,
           args);
    launch("margin_softmax::finish_rows", blocks_for(rows.batch, kThreads), kThreads, 0, stream,
           finish_rows<T>, args);
  });
}

void backward_cuda(const BackwardArgs& args, Stream stream) {
  const Rows& rows = args.rows;
  dispatch_floating<__half, __nv_bfloat16>(rows.dtype, [&]<class T>() {
    for (int64_t first = 0; first < rows.classes; first += args.chunk) {
      const int64_t size = rows.classes - first < args.chunk ? rows.classes - first : args.chunk;
      launch("margin_softmax::differentiate", tiles_of(size), kThreads, 0, stream, differentiate<T>,
             args, first);
      if (args.d_weight) {
        launch("margin_softmax::weight_gradient", dim3(tiles_of(size), tiles_of(rows.dim)),
               kThreads, 0, stream, weight_gradient<T>, args, first);
      }
      if (args.d_embeddings) {
        const dim3 grid(tiles_of(rows.dim), tiles_of(rows.batch),
                        static_cast<unsigned>(args.splits));
        launch("margin_softmax::add_embedding_gradient", grid, kThreads, 0, stream,
               add_embedding_gradient<T>, args, first);
      }
    }
    if (args.d_embeddings) {
      launch("margin_softmax::finish_embeddings", blocks_for(32 * rows.batch, kThreads), kThreads,
             0, stream, finish_embeddings<T>, args);
    }
  });
}

}  // namespace facekernels::margin_softmax
