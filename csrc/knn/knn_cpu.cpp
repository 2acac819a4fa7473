// Tiles of the product of queries and database that never leave the registers: a micro-kernel as in
// a matrix multiplication, whose last step compares instead of storing. Where the database is the
// queries, only the upper triangle is computed and every score serves two rows. With AVX-512 VNNI,
// tiles of 8-bit codes tell first which pairs are worth a product in float.
#include <omp.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <vector>

#include "core/parallel.h"
#include "core/simd.h"
#include "knn/knn.h"
#include "knn/knn_codes.h"
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
constexpr int kCrowd =
    8;  // a tile with more than a share of 1 / kCrowd of pairs is multiplied in float
static_assert(kBlockUnit % kTileRows == 0 && kBlockUnit % kTileColumns == 0);

constexpr float kNone = std::numeric_limits<float>::infinity();

constexpr int32_t kFlipSigns =
    static_cast<int32_t>(0x80808080u);  // of four codes: adds 128 to each

// Rows [first, first + rows) in panels of kWidth rows, element by element; missing rows are 0.
template <int kWidth, class T, class F = std::identity>
void pack(const T* x, int64_t first, int64_t rows, int64_t dim, T* panels, F change = {}) {
  for (int64_t r = 0; r < rows; r += kWidth, panels += kWidth * dim) {
    const T* const from = x + (first + r) * dim;
    const int64_t width = std::min<int64_t>(kWidth, rows - r);
    if (width == kWidth) {
      for (int64_t d = 0; d < dim; ++d) {
        for (int w = 0; w < kWidth; ++w) panels[d * kWidth + w] = change(from[w * dim + d]);
      }
    } else {
      for (int64_t d = 0; d < dim; ++d) {
        for (int w = 0; w < kWidth; ++w) {
          panels[d * kWidth + w] = w < width ? change(from[w * dim + d]) : T(0);
        }
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

inline float inner_product(const float* a, const float* b, int64_t dim) {
  constexpr int kChains = 4;
  Vec<float> sums[kChains] = {};
  int64_t d = 0;
  for (; d + kChains * kLane <= dim; d += kChains * kLane) {
    for (int i = 0; i < kChains; ++i) sums[i] += load(a + d + i * kLane) * load(b + d + i * kLane);
  }
  for (; d + kLane <= dim; d += kLane) sums[0] += load(a + d) * load(b + d);
  if (d < dim) sums[1] += load_partial(a + d, dim - d, 0.0f) * load_partial(b + d, dim - d, 0.0f);
  return reduce((sums[0] + sums[1]) + (sums[2] + sums[3]), add);
}

// The codes of both sides; empty where the processor cannot multiply them.
struct CodedSides {
  explicit CodedSides(const SearchArgs& args) : usable(codes_supported(args.filter_dim)) {
    if (!usable) return;
    queries_ = encode(args.queries.filter, args.queries.count, args.filter_dim);
    if (args.database.filter != args.queries.filter || args.database.count != args.queries.count) {
      database_ = encode(args.database.filter, args.database.count, args.filter_dim);
    }
  }
  const Codes& queries() const { return queries_; }
  const Codes& database() const { return database_.rows ? database_ : queries_; }

  const bool usable;

 private:
  Codes queries_, database_;
};

// One thread's part of the filter.
class Filter {
 public:
  Filter(const SearchArgs& args, int64_t block, const CodedSides& codes, Candidates& candidates)
      : args_(args),
        block_(block),
        codes_(codes),
        candidates_(candidates),
        rows_(kGroup, block * args.filter_dim),
        columns_(1, block * args.filter_dim),
        coded_rows_(allocate_aligned<int32_t>(kGroup * block * codes.queries().words)),
        coded_columns_(allocate_aligned<int32_t>(block * codes.queries().words)),
        correction_(allocate_aligned<int32_t>(block)),
        row_limits_(block),
        column_limits_(block),
        coarse_row_limits_(block),
        coarse_column_limits_(block),
        row_factors_(block),
        column_scales_(block) {}

  // Queries of the blocks [first, first + kGroup) against the rows of one block of the database.
  void operator()(int64_t first, int64_t column_block) {
    const int64_t column = column_block * block_;
    const int64_t columns = std::min(block_, args_.database.count - column);
    columns_.forget();
    if (codes_.usable) {
      pack<kTileColumns>(codes_.database().word.get(), column, columns, codes_.database().words,
                         coded_columns_.get());
      std::copy_n(codes_.database().correction.get() + column, columns, correction_.get());
      std::fill(correction_.get() + columns, correction_.get() + block_, 0);
    }
    for (int64_t g = 0; g < kGroup; ++g) {
      const int64_t row = (first + g) * block_;
      if (row >= args_.queries.count || (args_.symmetric && column_block < first + g)) break;
      visit({g, row, std::min(block_, args_.queries.count - row), column, columns});
    }
  }

  void start_rows(int64_t first) {
    rows_.forget();
    if (!codes_.usable) return;
    const Codes& codes = codes_.queries();
    for (int64_t g = 0; g < kGroup; ++g) {
      const int64_t row = (first + g) * block_;
      if (row >= args_.queries.count) break;
      pack<kTileRows>(codes.word.get(), row, std::min(block_, args_.queries.count - row),
                      codes.words, coded_rows_.get() + g * block_ * codes.words,
                      [](int32_t word) { return word ^ kFlipSigns; });
    }
  }

 private:
  // Packed float rows of some blocks, made when they are first asked for.
  class Panels {
   public:
    Panels(int64_t blocks, int64_t size)
        : size_(size), made_(blocks), values_(allocate_aligned<float>(blocks * size)) {}
    void forget() { std::fill(made_.begin(), made_.end(), false); }
    template <int kWidth>
    const float* of(int64_t block, const float* x, int64_t first, int64_t rows, int64_t dim) {
      float* const values = values_.get() + block * size_;
      if (!made_[block]) pack<kWidth>(x, first, rows, dim, values);
      made_[block] = true;
      return values;
    }

   private:
    int64_t size_;
    std::vector<bool> made_;
    Aligned<float> values_;
  };

  struct Visit {
    int64_t group, row, rows, column, columns;
  };
  struct Pair {
    int32_t r, c;
  };

  void visit(const Visit& v) {
    limits(candidates_, v.row, v.rows, row_limits_);
    if (args_.symmetric) {
      limits(candidates_, v.column, v.columns, column_limits_);
    } else {
      std::fill(column_limits_.begin(), column_limits_.end(), kNone);
    }
    const bool coarse = codes_.usable && coarse_limits(v);
    for (int64_t r = 0; r < v.rows; r += kTileRows) {
      for (int64_t c = 0; c < v.columns; c += kTileColumns) {
        if (args_.symmetric && v.column + c + kTileColumns <= v.row + r) continue;
        if (!coarse || crowded(v, r, c)) collect(v, r, c);
      }
    }
    collect_near(v);
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

  // The limits less what coarse scores may be off by; false while some are still open.
  bool coarse_limits(const Visit& v) {
    const Codes &queries = codes_.queries(), &database = codes_.database();
    if (!settled(row_limits_) || !settled(column_limits_)) return false;
    const auto largest = [](const Aligned<float>& of, int64_t first, int64_t count) {
      return *std::max_element(of.get() + first, of.get() + first + count);
    };
    const float column_norm = largest(database.norm, v.column, v.columns);
    const float column_residual = largest(database.residual, v.column, v.columns);
    for (int64_t r = 0; r < block_; ++r) {
      const int64_t q = v.row + r;
      row_factors_[r] = r < v.rows ? 1.0f / queries.scale[q] : 1.0f;
      coarse_row_limits_[r] = r < v.rows
                                  ? (row_limits_[r] - args_.slack[q] -
                                     coarse_margin(queries, q, column_norm, column_residual)) *
                                        row_factors_[r]
                                  : kNone;
    }
    for (int64_t c = 0; c < block_; ++c) {
      column_scales_[c] = c < v.columns ? database.scale[v.column + c] : 0.0f;
      coarse_column_limits_[c] = kNone;
    }
    if (!args_.symmetric) return true;
    const float row_norm = largest(queries.norm, v.row, v.rows);
    const float row_residual = largest(queries.residual, v.row, v.rows);
    for (int64_t c = 0; c < v.columns; ++c) {
      const int64_t x = v.column + c;
      coarse_column_limits_[c] =
          column_limits_[c] - args_.slack[x] - coarse_margin(database, x, row_norm, row_residual);
    }
    return true;
  }

  static bool settled(const std::vector<float>& limits) {
    return std::find(limits.begin(), limits.end(), -kNone) == limits.end();
  }

  // Coarse scores of a tile: notes the pairs that may pass, or says that they are too many.
  bool crowded([[maybe_unused]] const Visit& v, [[maybe_unused]] int64_t r,
               [[maybe_unused]] int64_t c) {
#if defined(__AVX512F__)
    const int64_t words = codes_.queries().words;
    alignas(64) int32_t scores[kTileRows * kTileColumns];
    multiply_codes<kTileRows, kTileVectors>(coded_rows_.get() + (v.group * block_ + r) * words,
                                            coded_columns_.get() + c * words, correction_.get() + c,
                                            words, scores);
    Vec<float> scale[kTileVectors], limit[kTileVectors];
    for (int i = 0; i < kTileVectors; ++i) {
      scale[i] = load(&column_scales_[c + i * kLane]);
      limit[i] = load(&coarse_column_limits_[c + i * kLane]);
    }
    uint64_t hits[kTileRows];
    int count = 0;
    for (int i = 0; i < kTileRows; ++i) {
      const Vec<float> row_limit = splat(coarse_row_limits_[r + i]);
      const Vec<float> factor = splat(row_factors_[r + i]);
      hits[i] = 0;
      for (int j = 0; j < kTileVectors; ++j) {
        const Vec<int32_t> sums = load_words(scores + (i * kTileVectors + j) * kLane);
        const Vec<float> score = __builtin_convertvector(sums, Vec<float>) * scale[j];
        hits[i] |= (greater_bits(score, row_limit) | greater_bits(score, limit[j] * factor))
                   << (j * kLane);
      }
      count += std::popcount(hits[i]);
    }
    if (count == 0) [[likely]]
      return false;
    if (count > kTileRows * kTileColumns / kCrowd) return true;
    for (int i = 0; i < kTileRows; ++i) {
      for (; hits[i]; hits[i] &= hits[i] - 1) {
        near_.push_back(
            {static_cast<int32_t>(r + i), static_cast<int32_t>(c + std::countr_zero(hits[i]))});
      }
    }
#endif
    return false;
  }

  void collect_near(const Visit& v) {
    const int64_t dim = args_.filter_dim;
    const auto row_of = [&](const Pair& p) { return args_.queries.filter + (v.row + p.r) * dim; };
    const auto column_of = [&](const Pair& p) {
      return args_.database.filter + (v.column + p.c) * dim;
    };
    for (const Pair& p : near_) {
      if (!counts(v, p.r, p.c)) continue;
      record(v, p.r, p.c, inner_product(row_of(p), column_of(p), dim));
    }
    near_.clear();
  }

  // All scores of a tile, in float.
  void collect(const Visit& v, int64_t r, int64_t c) {
    const int64_t dim = args_.filter_dim;
    const float* const rows =
        rows_.of<kTileRows>(v.group, args_.queries.filter, v.row, v.rows, dim);
    const float* const columns =
        columns_.of<kTileColumns>(0, args_.database.filter, v.column, v.columns, dim);
    Tile tile;
    multiply(rows + r * dim, columns + c * dim, dim, tile);
    Vec<float> limit[kTileVectors];
#pragma GCC unroll 4
    for (int i = 0; i < kTileVectors; ++i) limit[i] = load(&column_limits_[c + i * kLane]);
#pragma GCC unroll 16
    for (int i = 0; i < kTileRows; ++i) {
      const Vec<float> row_limit = splat(row_limits_[r + i]);
#pragma GCC unroll 4
      for (int j = 0; j < kTileVectors; ++j) {
        const uint64_t hits =
            greater_bits(tile[i][j], row_limit) | greater_bits(tile[i][j], limit[j]);
        if (hits) [[unlikely]]
          emit(v, tile[i][j], hits, r + i, c + j * kLane);
      }
    }
  }

  [[gnu::noinline]] void emit(const Visit& v, const Vec<float>& scores, uint64_t hits, int64_t r,
                              int64_t c) {
    float score[kLane];
    store(score, scores);
    for (; hits; hits &= hits - 1) {
      const int lane = std::countr_zero(hits);
      if (counts(v, r, c + lane)) record(v, r, c + lane, score[lane]);
    }
  }

  // Whether the pair exists, is wanted, and is not the other half of one that is.
  bool counts(const Visit& v, int64_t r, int64_t c) const {
    const int64_t query = v.row + r, other = v.column + c;
    return r < v.rows && c < v.columns &&
           !(args_.self_offset >= 0 && other == query + args_.self_offset) &&
           !(args_.symmetric && other < query);
  }

  void record(const Visit& v, int64_t r, int64_t c, float score) {
    const int64_t query = v.row + r, other = v.column + c;
    if (score > row_limits_[r]) found_.push_back({query, {score, static_cast<int32_t>(other)}});
    if (other != query && score > column_limits_[c]) {
      found_by_column_.push_back({other, {score, static_cast<int32_t>(query)}});
    }
  }

  const SearchArgs& args_;
  int64_t block_;
  const CodedSides& codes_;
  Candidates& candidates_;
  Panels rows_, columns_;
  Aligned<int32_t> coded_rows_, coded_columns_, correction_;
  std::vector<float> row_limits_, column_limits_;
  std::vector<float> coarse_row_limits_, coarse_column_limits_, row_factors_, column_scales_;
  std::vector<Pair> near_;
  std::vector<Candidates::Found> found_, found_by_column_;
};

int64_t block_rows(int64_t dim) {
  const int64_t fitting = kBlockBytes / (static_cast<int64_t>(sizeof(float)) * dim);
  return std::clamp(fitting / kBlockUnit * kBlockUnit, kBlockUnit, kMaxBlock);
}

void filter(const SearchArgs& args) {
  const int64_t block = block_rows(std::max<int64_t>(args.filter_dim, 1));
  const CodedSides codes(args);
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
  // Made here: an exception must not leave a parallel region.
  std::vector<std::unique_ptr<Filter>> filters;
  for (int i = 0; i < threads; ++i) {
    filters.push_back(std::make_unique<Filter>(args, block, codes, candidates));
  }
#pragma omp parallel num_threads(threads)
  {
    Filter& visit = *filters[omp_get_thread_num()];
    int64_t packed = -1;
#pragma omp for schedule(dynamic, 1)
    for (int64_t t = 0; t < std::ssize(tasks); ++t) {
      const Task& task = tasks[t];
      if (packed != task.rows) visit.start_rows(task.rows);
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
      if (args.candidate_count[q] < args.k) args.overflow[q] = 1;  // only where scores are NaN
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
