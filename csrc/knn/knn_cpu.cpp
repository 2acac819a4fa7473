// Tiles of the product of queries and database that never leave the registers: a micro-kernel as in
// a matrix multiplication, whose last step compares instead of storing. Where the database is the
// queries, only the upper triangle is computed and every score serves two rows.
#include <omp.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "core/parallel.h"
#include "core/simd.h"
#include "knn/knn.h"
#include "knn/knn_math.h"

namespace facekernels::knn::FK_CPU_VARIANT {
namespace {

using namespace facekernels::FK_CPU_VARIANT;

// A register tile: kTileRows broadcasts against kTileVectors vectors fill the register file.
#if defined(__AVX512F__)
constexpr int kTileRows = 12;
#else
constexpr int kTileRows = 6;
#endif
constexpr int kTileVectors = 2;
constexpr int kLane = kLanes<float>;
constexpr int kTileColumns = kTileVectors * kLane;

constexpr int64_t kBlockUnit = 96;             // a multiple of both tile sizes
constexpr int64_t kBlockBytes = 384 * 1024;    // of the packed columns: they stay in L2
constexpr int64_t kMaxBlock = 8 * kBlockUnit;  // thresholds are refreshed between blocks
constexpr int64_t kGroup = 4;                  // row blocks that share one packing of the columns
static_assert(kBlockUnit % kTileRows == 0 && kBlockUnit % kTileColumns == 0);

constexpr float kNone = std::numeric_limits<float>::infinity();

struct Free {
  void operator()(float* p) const { std::free(p); }
};
using Panels = std::unique_ptr<float[], Free>;

Panels allocate_panels(int64_t count) {
  const size_t bytes = (count * sizeof(float) + 63) / 64 * 64;
  void* const p = std::aligned_alloc(64, bytes);
  if (!p) throw std::bad_alloc();
  return Panels(static_cast<float*>(p));
}

// Rows [first, first + rows) in panels of kWidth rows, element by element; missing rows are 0.
template <int kWidth>
void pack(const float* x, int64_t first, int64_t rows, int64_t dim, float* panels) {
  for (int64_t r = 0; r < rows; r += kWidth, panels += kWidth * dim) {
    const float* const from = x + (first + r) * dim;
    const int64_t width = std::min<int64_t>(kWidth, rows - r);
    if (width == kWidth) {
      for (int64_t d = 0; d < dim; ++d) {
        for (int w = 0; w < kWidth; ++w) panels[d * kWidth + w] = from[w * dim + d];
      }
    } else {
      for (int64_t d = 0; d < dim; ++d) {
        for (int w = 0; w < kWidth; ++w) panels[d * kWidth + w] = w < width ? from[w * dim + d] : 0;
      }
    }
  }
}

using Tile = Vec<float>[kTileRows][kTileVectors];

inline void multiply(const float* rows, const float* columns, int64_t dim, Tile& tile) {
#pragma GCC unroll 16
  for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) tile[r][v] = Vec<float>{};
  }
  for (int64_t d = 0; d < dim; ++d, rows += kTileRows, columns += kTileColumns) {
    Vec<float> c[kTileVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) c[v] = load(columns + v * kLane);
#pragma GCC unroll 16
    for (int r = 0; r < kTileRows; ++r) {
      const Vec<float> row = splat(rows[r]);
#pragma GCC unroll 4
      for (int v = 0; v < kTileVectors; ++v) tile[r][v] += row * c[v];
    }
  }
}

struct Candidate {
  float score;
  int32_t index;
};

// The candidates of every query. A block of rows is guarded by one lock.
class Candidates {
 public:
  Candidates(const SearchArgs& args, int64_t block)
      : args_(args), block_(block), locks_((args.queries.count + block - 1) / block) {
    parallel_for(args.queries.count, 4, [&](int64_t begin, int64_t end) {
      std::fill(args.candidate_count + begin, args.candidate_count + end, 0);
      std::fill(args.threshold + begin, args.threshold + end, -kNone);
      std::fill(args.overflow + begin, args.overflow + end, uint8_t{0});
    });
  }

  struct Found {
    int64_t query;
    Candidate candidate;
  };

  void thresholds(int64_t first, int64_t count, float* out) {
    const std::lock_guard<std::mutex> hold(locks_[first / block_]);
    std::copy_n(args_.threshold + first, count, out);
  }

  // All of one block of queries.
  void add(const std::vector<Found>& found) {
    if (found.empty()) return;
    const std::lock_guard<std::mutex> hold(locks_[found.front().query / block_]);
    constexpr size_t kAhead = 16;
    for (size_t i = 0; i < found.size(); ++i) {
      if (i + kAhead < found.size()) prefetch(found[i + kAhead].query);
      push(found[i].query, found[i].candidate);
    }
  }

 private:
  void prefetch(int64_t q) const {
    const int64_t at = q * args_.capacity + args_.candidate_count[q];
    __builtin_prefetch(args_.candidate_score + at, 1);
    __builtin_prefetch(args_.candidate_index + at, 1);
  }

  void push(int64_t q, Candidate c) {
    if (!(c.score > args_.threshold[q])) return;
    int32_t& count = args_.candidate_count[q];
    if (count == args_.capacity) {
      compact(q);
      if (!(c.score > args_.threshold[q])) return;
    }
    args_.candidate_score[q * args_.capacity + count] = c.score;
    args_.candidate_index[q * args_.capacity + count] = c.index;
    ++count;
  }

  void compact(int64_t q) {
    float* const score = args_.candidate_score + q * args_.capacity;
    int32_t* const index = args_.candidate_index + q * args_.capacity;
    int32_t& count = args_.candidate_count[q];
    thread_local std::vector<float> sorted;
    sorted.assign(score, score + count);
    const auto kth = sorted.begin() + (args_.k - 1);
    std::nth_element(sorted.begin(), kth, sorted.end(), std::greater<float>());
    const float above = std::nextafter(*kth - args_.slack[q], -kNone);
    int32_t kept = 0;
    for (int32_t i = 0; i < count; ++i) {
      const bool keep = score[i] > above;  // without a branch: it would be mispredicted
      score[kept] = score[i];
      index[kept] = index[i];
      kept += keep;
    }
    count = kept;
    args_.threshold[q] = above;
    if (kept > args_.capacity - args_.capacity / 8) {  // too many near ties to go on like this
      args_.overflow[q] = 1;
      args_.threshold[q] = kNone;
    }
  }

  const SearchArgs& args_;
  int64_t block_;
  std::vector<std::mutex> locks_;
};

// One thread's part of the filter.
class Filter {
 public:
  Filter(const SearchArgs& args, int64_t block, Candidates& candidates)
      : args_(args),
        block_(block),
        candidates_(candidates),
        rows_(allocate_panels(kGroup * block * args.filter_dim)),
        columns_(allocate_panels(block * args.filter_dim)),
        row_limits_(block),
        column_limits_(block) {}

  // Queries of the blocks [first, first + kGroup) against the rows of one block of the database.
  void operator()(int64_t first, int64_t column_block) {
    const int64_t dim = args_.filter_dim;
    const int64_t column = column_block * block_;
    const int64_t columns = std::min(block_, args_.database.count - column);
    pack<kTileColumns>(args_.database.filter, column, columns, dim, columns_.get());
    for (int64_t g = 0; g < kGroup; ++g) {
      const int64_t row = (first + g) * block_;
      if (row >= args_.queries.count || (args_.symmetric && column_block < first + g)) break;
      visit(row, std::min(block_, args_.queries.count - row), rows_.get() + g * block_ * dim,
            column, columns);
    }
  }

  void pack_rows(int64_t first) {
    for (int64_t g = 0; g < kGroup; ++g) {
      const int64_t row = (first + g) * block_;
      if (row >= args_.queries.count) break;
      pack<kTileRows>(args_.queries.filter, row, std::min(block_, args_.queries.count - row),
                      args_.filter_dim, rows_.get() + g * block_ * args_.filter_dim);
    }
  }

 private:
  void visit(int64_t row, int64_t rows, const float* row_panels, int64_t column, int64_t columns) {
    const int64_t dim = args_.filter_dim;
    limits(candidates_, row, rows, row_limits_);
    if (args_.symmetric) {
      limits(candidates_, column, columns, column_limits_);
    } else {
      std::fill(column_limits_.begin(), column_limits_.end(), kNone);
    }
    for (int64_t r = 0; r < rows; r += kTileRows) {
      for (int64_t c = 0; c < columns; c += kTileColumns) {
        if (args_.symmetric && column + c + kTileColumns <= row + r) continue;
        Tile tile;
        multiply(row_panels + r * dim, columns_.get() + c * dim, dim, tile);
        collect(tile, row, r, rows, column, c, columns);
      }
    }
    candidates_.add(found_);
    candidates_.add(found_by_column_);
    found_.clear();
    found_by_column_.clear();
  }

  static void limits(Candidates& candidates, int64_t first, int64_t count,
                     std::vector<float>& out) {
    candidates.thresholds(first, count, out.data());
    std::fill(out.begin() + count, out.end(), kNone);
  }

  void collect(const Tile& tile, int64_t row, int64_t r, int64_t rows, int64_t column, int64_t c,
               int64_t columns) {
    Vec<float> limit[kTileVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) limit[v] = load(&column_limits_[c + v * kLane]);
#pragma GCC unroll 16
    for (int i = 0; i < kTileRows; ++i) {
      const Vec<float> row_limit = splat(row_limits_[r + i]);
#pragma GCC unroll 4
      for (int v = 0; v < kTileVectors; ++v) {
        const uint64_t hits =
            greater_bits(tile[i][v], row_limit) | greater_bits(tile[i][v], limit[v]);
        if (hits) [[unlikely]]
          emit(tile[i][v], hits, row, r + i, rows, column, c + v * kLane, columns);
      }
    }
  }

  [[gnu::noinline]] void emit(const Vec<float>& scores, uint64_t hits, int64_t row, int64_t r,
                              int64_t rows, int64_t column, int64_t c, int64_t columns) {
    float score[kLane];
    store(score, scores);
    const int64_t query = row + r;
    for (; hits; hits &= hits - 1) {
      const int lane = std::countr_zero(hits);
      const int64_t other = column + c + lane;
      if (r >= rows || c + lane >= columns) continue;
      if (args_.self_offset >= 0 && other == query + args_.self_offset) continue;
      if (args_.symmetric && other < query) continue;
      const float s = score[lane];
      if (s > row_limits_[r]) found_.push_back({query, {s, static_cast<int32_t>(other)}});
      if (other != query && s > column_limits_[c + lane]) {
        found_by_column_.push_back({other, {s, static_cast<int32_t>(query)}});
      }
    }
  }

  const SearchArgs& args_;
  int64_t block_;
  Candidates& candidates_;
  Panels rows_, columns_;
  std::vector<float> row_limits_, column_limits_;
  std::vector<Candidates::Found> found_, found_by_column_;
};

int64_t block_rows(int64_t dim) {
  const int64_t fitting = kBlockBytes / (static_cast<int64_t>(sizeof(float)) * dim);
  return std::clamp(fitting / kBlockUnit * kBlockUnit, kBlockUnit, kMaxBlock);
}

void filter(const SearchArgs& args) {
  const int64_t block = block_rows(std::max<int64_t>(args.filter_dim, 1));
  Candidates candidates(args, block);
  const int64_t row_blocks = (args.queries.count + block - 1) / block;
  const int64_t column_blocks = (args.database.count + block - 1) / block;
  constexpr int64_t kRun = 32;  // column blocks per task
  struct Task {
    int64_t rows, begin, end;
  };
  std::vector<Task> tasks;
  // From the diagonal on, so that the thresholds rise early where neighbours are stored together.
  for (int64_t rows = 0; rows < row_blocks; rows += kGroup) {
    for (int64_t c = args.symmetric ? rows : 0; c < column_blocks; c += kRun) {
      tasks.push_back({rows, c, std::min(c + kRun, column_blocks)});
    }
  }
  const int threads =
      omp_in_parallel()
          ? 1
          : static_cast<int>(std::min<int64_t>(omp_get_max_threads(), std::ssize(tasks)));
#pragma omp parallel num_threads(threads)
  {
    Filter visit(args, block, candidates);
    int64_t packed = -1;
#pragma omp for schedule(dynamic, 1)
    for (int64_t t = 0; t < std::ssize(tasks); ++t) {
      const Task& task = tasks[t];
      if (packed != task.rows) visit.pack_rows(task.rows);
      packed = task.rows;
      for (int64_t c = task.begin; c < task.end; ++c) visit(task.rows, c);
    }
  }
}

template <class T>
double exact_score(const SearchArgs& args, int64_t q, int64_t x) {
  const T* const a = static_cast<const T*>(args.queries.exact) + q * args.dim;
  const T* const b = static_cast<const T*>(args.database.exact) + x * args.dim;
  double sums[kPartialSums] = {};
  int64_t d = 0;
  for (; d + kPartialSums <= args.dim; d += kPartialSums) {
    for (int i = 0; i < kPartialSums; ++i) sums[i] += term(args.metric, a[d + i], b[d + i]);
  }
  for (int i = 0; d + i < args.dim; ++i) sums[i] += term(args.metric, a[d + i], b[d + i]);
  for (int offset = kPartialSums / 2; offset > 0; offset /= 2) {
    for (int i = 0; i < offset; ++i) sums[i] += sums[i + offset];
  }
  return scaled(sums[0], args.queries, q, args.database, x);
}

template <class T>
void prefetch_row(const SearchArgs& args, int64_t x) {
  const char* const row =
      reinterpret_cast<const char*>(static_cast<const T*>(args.database.exact) + x * args.dim);
  const int64_t bytes = args.dim * static_cast<int64_t>(sizeof(T));
  for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(row + at);
}

struct Neighbor {
  double score;
  int64_t index;
};

template <class T>
void finish(const SearchArgs& args) {
  const int64_t cost = 2 * args.k * std::max<int64_t>(args.dim, 1);
  parallel_for(args.queries.count, cost, [&](int64_t begin, int64_t end) {
    std::vector<Neighbor> neighbors;
    for (int64_t q = begin; q < end; ++q) {
      if (args.overflow[q]) continue;
      neighbors.resize(args.candidate_count[q]);
      const float* const approximate = args.candidate_score + q * args.capacity;
      const int32_t* const index = args.candidate_index + q * args.capacity;
      // Candidates of before the last rise of the threshold may be out by now.
      std::vector<float> sorted(approximate, approximate + neighbors.size());
      std::nth_element(sorted.begin(), sorted.begin() + (args.k - 1), sorted.end(),
                       std::greater<float>());
      const float lowest = std::nextafter(sorted[args.k - 1] - args.slack[q], -kNone);
      size_t count = 0;
      for (size_t i = 0; i < neighbors.size(); ++i) {
        if (approximate[i] >= lowest) neighbors[count++].index = index[i];
      }
      neighbors.resize(count);
      for (size_t i = 0; i < count; ++i) {
        if (i + 2 < count) prefetch_row<T>(args, neighbors[i + 2].index);
        neighbors[i].score = exact_score<T>(args, q, neighbors[i].index);
      }
      std::partial_sort(neighbors.begin(), neighbors.begin() + args.k, neighbors.end(),
                        [](const Neighbor& a, const Neighbor& b) {
                          return a.score > b.score || (a.score == b.score && a.index < b.index);
                        });
      for (int64_t i = 0; i < args.k; ++i) {
        args.index[q * args.k + i] = neighbors[i].index;
        args.score[q * args.k + i] = static_cast<float>(neighbors[i].score);
      }
    }
  });
}

}  // namespace

void search_cpu(const SearchArgs& args) {
  filter(args);
  args.dtype == DType::kFloat64 ? finish<double>(args) : finish<float>(args);
}

}  // namespace facekernels::knn::FK_CPU_VARIANT
