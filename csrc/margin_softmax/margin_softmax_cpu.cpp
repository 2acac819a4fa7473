// Three matrix products whose middle operand never leaves the second-level cache: a block of class
// rows is packed and multiplied by all embeddings, its cosines become probabilities or their
// gradients in place, and in the backward pass two more products read them. Batch rows lie along
// the vectors, so sums over classes need no work across lanes.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/aligned.h"
#include "core/huge_pages.h"
#include "core/parallel.h"
#include "core/simd.h"
#include "core/simd_math.h"
#include "core/simd_run.h"
#include "margin_softmax/margin_softmax.h"
#include "margin_softmax/margin_softmax_math.h"

namespace facekernels::margin_softmax::FK_CPU_VARIANT {
namespace {

using namespace facekernels::FK_CPU_VARIANT;

// A register tile: kTileRows broadcasts against kTileVectors vectors.
constexpr int kTileRows = 6;
#if defined(__AVX512F__)
constexpr int kTileVectors = 4;
#else
constexpr int kTileVectors = 2;
#endif
template <class A>
constexpr int kWidth = kTileVectors * kLanes<A>;

constexpr int64_t kBlock = 48;      // classes of a block: a multiple of kTileRows
constexpr int64_t kMaxChunks = 32;  // of the classes: what threads share, and sums are grouped by
constexpr int64_t kFewChunks = 4;   // at any batch
static_assert(kBlock % kTileRows == 0);

constexpr int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// f(std::integral_constant<int, count>) for 1 <= count <= kMost.
template <int kMost, class F>
inline void with_constant(int64_t count, F f) {
  if constexpr (kMost > 0) {
    if (count == kMost) return f(std::integral_constant<int, kMost>{});
    with_constant<kMost - 1>(count, f);
  }
}

// tile[r][v] += sum_k a[r * row + k * step] * b[k * stride + v]
template <int kRows, int kVectors, class A>
[[gnu::always_inline]] inline void multiply(const A* a, int64_t row, int64_t step, const A* b,
                                            int64_t stride, int64_t depth,
                                            Vec<A> (&tile)[kRows][kVectors]) {
  for (int64_t k = 0; k < depth; ++k, a += step, b += stride) {
    Vec<A> columns[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) columns[v] = load(b + v * kLanes<A>);
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      const Vec<A> broadcast = splat(a[r * row]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) tile[r][v] += broadcast * columns[v];
    }
  }
}

// Rows in panels of kWidth elements, [groups][rows][kWidth]; elements past the last are 0.
template <class A>
class Panels {
 public:
  Panels(int64_t rows, int64_t dim)
      : rows_(rows),
        dim_(dim),
        groups_(divide_up(dim, kWidth<A>)),
        values_(allocate_aligned<A>(groups_ * rows * kWidth<A>)) {}

  int64_t rows() const { return rows_; }
  int64_t groups() const { return groups_; }
  A* at(int64_t group, int64_t row) { return values_.get() + (group * rows_ + row) * kWidth<A>; }
  const A* at(int64_t group, int64_t row) const {
    return const_cast<Panels*>(this)->at(group, row);
  }
  void clear() { std::fill_n(values_.get(), groups_ * rows_ * kWidth<A>, A(0)); }

  // Copies a row; returns the sum of its squares.
  template <class T>
  A fill(int64_t row, const T* from) {
    Vec<A> sums[kTileVectors] = {};
    for (int64_t g = 0; g < groups_; ++g) {
      A* const to = at(g, row);
      const int64_t left = dim_ - g * kWidth<A>;
      for (int v = 0; v < kTileVectors; ++v) {
        const int64_t lanes = left - v * kLanes<A>;
        const T* const source = from + g * kWidth<A> + v * kLanes<A>;
        const Vec<A> values = lanes >= kLanes<A> ? load(source)
                              : lanes > 0        ? load_partial(source, lanes, A(0))
                                                 : Vec<A>{};
        sums[v] += values * values;
        store(to + v * kLanes<A>, values);
      }
    }
    for (int v = 1; v < kTileVectors; ++v) sums[0] += sums[v];
    return reduce(sums[0], add);
  }

 private:
  int64_t rows_, dim_, groups_;
  Aligned<A> values_;
};

// The embeddings, normalised: row by row, and transposed in groups of kTileVectors vectors of rows,
// the last of which may have fewer. Rows past the last are 0.
template <class A>
struct Embeddings {
  template <class T>
  Embeddings(const Rows& rows, const T* x)
      : padded(divide_up(rows.batch, kLanes<A>) * kLanes<A>),
        panels(rows.batch, rows.dim),
        inverse(rows.batch),
        transposed(allocate_aligned<A>(padded * panels.groups() * kWidth<A>)) {
    const int64_t depth = panels.groups() * kWidth<A>;
    std::fill_n(transposed.get(), padded * depth, A(0));
    for (int64_t b = 0; b < rows.batch; ++b) {
      inverse[b] = inverse_norm(panels.fill(b, x + b * rows.dim));
      const int64_t first = b / kWidth<A> * kWidth<A>;
      const int64_t width = std::min<int64_t>(kWidth<A>, padded - first);
      A* const column = transposed.get() + first * depth + (b - first);
      for (int64_t g = 0; g < panels.groups(); ++g) {
        A* const values = panels.at(g, b);
        for (int64_t d = 0; d < kWidth<A>; ++d) {
          values[d] *= inverse[b];
          column[(g * kWidth<A> + d) * width] = values[d];
        }
      }
    }
  }

  int64_t padded;  // rows, in whole vectors
  Panels<A> panels;
  std::vector<A> inverse;  // of the norms
  Aligned<A> transposed;
};

// Classes [first, first + count) and their products with all embeddings.
template <class A>
struct Block {
  Block(const Rows& rows, int64_t padded)
      : panels(kBlock, rows.dim),
        inverse(kBlock),
        padded(padded),
        scratch(allocate_aligned<A>(kBlock * padded)),
        column(allocate_aligned<IndexOf<A>>(padded)) {
    std::fill_n(column.get(), padded, IndexOf<A>(-1));
  }

  template <class T>
  void load_rows(const Rows& rows, int64_t from, int64_t rows_in_block) {
    first = from;
    count = rows_in_block;
    const T* const weight = static_cast<const T*>(rows.weight);
    for (int64_t c = 0; c < count; ++c) {
      inverse[c] = inverse_norm(panels.fill(c, weight + rows.row_of(first + c) * rows.dim));
    }
    for (int64_t b = 0; b < rows.batch; ++b) {
      const int64_t at = rows.labels[b] - first;
      column[b] = static_cast<IndexOf<A>>(is_class(at, count) ? at : -1);
    }
  }

  // Where the products are: in `kept`, [classes, row], or in the scratch if that is null.
  void place(A* kept, int64_t row) {
    products = kept ? kept + first * row : scratch.get();
    stride = kept ? row : padded;
  }

  // products[c][b] = <e_b / |e_b|, w_c>
  void multiply_all(const Embeddings<A>& e) {
    const int64_t depth = panels.groups() * kWidth<A>;
    for (int64_t b = 0; b < e.padded; b += kWidth<A>) {
      const int64_t width = std::min<int64_t>(kWidth<A>, e.padded - b);
      with_constant<kTileVectors>(
          width / kLanes<A>, [&]<int kVectors>(std::integral_constant<int, kVectors>) {
            for (int64_t c = 0; c < count; c += kTileRows) {
              with_constant<kTileRows>(
                  std::min<int64_t>(kTileRows, count - c),
                  [&]<int kRows>(std::integral_constant<int, kRows>) {
                    Vec<A> tile[kRows][kVectors] = {};
                    const A* column_of = e.transposed.get() + b * depth;
                    for (int64_t g = 0; g < panels.groups(); ++g, column_of += kWidth<A> * width) {
                      multiply(panels.at(g, c), kWidth<A>, 1, column_of, width, kWidth<A>, tile);
                    }
                    for (int r = 0; r < kRows; ++r) {
                      for (int v = 0; v < kVectors; ++v) {
                        store(products + (c + r) * stride + b + v * kLanes<A>, tile[r][v]);
                      }
                    }
                  });
            }
          });
    }
  }

  Panels<A> panels;
  std::vector<A> inverse;  // of the norms
  int64_t padded;          // rows of the batch, in whole vectors
  Aligned<A> scratch;      // [kBlock, padded]
  A* products = nullptr;   // [count, stride]
  int64_t stride = 0;
  Aligned<IndexOf<A>> column;  // of each row's label in this block, or -1
  int64_t first = 0, count = 0;
};

template <class A>
inline Vec<A> clamped(Vec<A> x) {  // a NaN passes
  x = x > splat(A(1)) ? splat(A(1)) : x;
  return x < splat(A(-1)) ? splat(A(-1)) : x;
}

template <class A>
inline Vec<IndexOf<A>> load_index(const IndexOf<A>* p) {
  Vec<IndexOf<A>> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

// Into how many parts the classes are cut: by the sizes alone, because sums are grouped by it.
inline int64_t most_chunks(const Rows& rows) {
  return std::clamp<int64_t>(divide_up(rows.classes, kBlock), 1, kMaxChunks);
}

// The same where every part sums a gradient of the embeddings, which beyond the first few parts
// must not be larger than the part's weights.
inline int64_t summed_chunks(const Rows& rows) {
  const int64_t most = most_chunks(rows);
  return std::clamp<int64_t>(rows.classes / rows.batch, std::min(kFewChunks, most), most);
}

// f(chunk, block) for every block of classes, the chunks divided among the threads; start(chunk)
// before the first.
template <class T, class A, class Start, class F>
void for_each_block(const Rows& rows, int64_t padded, int64_t products, int64_t chunks, Start start,
                    F f) {
  const int64_t blocks = divide_up(rows.classes, kBlock);
  const int64_t cost = 2 * products * rows.batch * rows.dim * divide_up(rows.classes, chunks);
  parallel_for(chunks, cost / kLanes<A>, [&](int64_t begin, int64_t end) {
    Block<A> block(rows, padded);
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      start(chunk);
      for (int64_t i = blocks * chunk / chunks; i < blocks * (chunk + 1) / chunks; ++i) {
        const int64_t first = i * kBlock;
        block.template load_rows<T>(rows, first, std::min(kBlock, rows.classes - first));
        f(chunk, block);
      }
    }
  });
}

// Of the rows, in whole vectors: the largest logit so far and the sum of exponentials less it.
template <class A>
struct Sums {
  Sums(int64_t padded, A smallest)
      : largest(allocate_aligned<A>(padded)), sum(allocate_aligned<A>(padded)) {
    std::fill_n(largest.get(), padded, smallest);
    std::fill_n(sum.get(), padded, A(0));
  }
  Aligned<A> largest, sum;
};

// Adds a block to the sums of the vector of rows at b. Logits go to the scratch.
template <class A>
void add_block(Block<A>& block, int64_t b, A scale, Sums<A>& sums, A* target) {
  const Vec<IndexOf<A>> column = load_index<A>(block.column.get() + b);
  const Vec<A> none = splat(-std::numeric_limits<A>::infinity());
  const Vec<A> before = load(sums.largest.get() + b);
  Vec<A> largest = before, found = load(target + b);
  for (int64_t c = 0; c < block.count; ++c) {
    const Vec<A> product = load(block.products + c * block.stride + b);
    const Vec<A> cos = clamped<A>(product * splat(block.inverse[c]));
    const auto hit = column == splat(static_cast<IndexOf<A>>(c));
    found = hit ? cos : found;
    const Vec<A> logit = hit ? none : cos * splat(scale);
    largest = logit > largest ? logit : largest;
    store(block.scratch.get() + c * block.padded + b, logit);
  }
  Vec<A> sum = load(sums.sum.get() + b) * exp_of<A>(before - largest);
  for (int64_t c = 0; c < block.count; ++c) {
    sum += exp_of<A>(load(block.scratch.get() + c * block.padded + b) - largest);
  }
  store(sums.largest.get() + b, largest);
  store(sums.sum.get() + b, sum);
  store(target + b, found);
}

template <class T>
void forward(const ForwardArgs& args) {
  using A = Accumulate<T>;
  const Rows& rows = args.rows;
  const Embeddings<A> e(rows, static_cast<const T*>(rows.embeddings));
  const A scale = static_cast<A>(rows.scale);
  const int64_t chunks = most_chunks(rows);
  std::vector<Sums<A>> sums;
  std::vector<Aligned<A>> targets;
  for (int64_t i = 0; i < chunks; ++i) {
    sums.emplace_back(e.padded, -scale);  // no logit is smaller, so differences stay finite
    targets.push_back(allocate_aligned<A>(e.padded));
    std::fill_n(targets[i].get(), e.padded, A(0));
  }
  for_each_block<T, A>(
      rows, e.padded, 1, chunks, [](int64_t) {},
      [&](int64_t chunk, Block<A>& block) {
        block.place(static_cast<A*>(args.kept), kept_row(rows.batch));
        block.multiply_all(e);
        for (int64_t b = 0; b < e.padded; b += kLanes<A>) {
          add_block(block, b, scale, sums[chunk], targets[chunk].get());
        }
      });
  for (int64_t b = 0; b < rows.batch; ++b) {
    A largest = -scale, sum = 0;
    for (const Sums<A>& s : sums) largest = std::max(largest, s.largest[b]);
    A target = is_class(rows.labels[b], rows.classes) ? A(0) : no_target<A>(rows.labels[b]);
    for (int64_t i = 0; i < chunks; ++i) {
      sum += sums[i].sum[b] * std::exp(sums[i].largest[b] - largest);
      target += targets[i][b];  // of one chunk; 0 of the others
    }
    static_cast<A*>(args.lse)[b] = largest + std::log(sum);
    static_cast<A*>(args.target)[b] = target;
  }
}

// What the cosines' gradients need of the rows, in whole vectors; rows past the last have none.
template <class A>
struct RowGradients {
  RowGradients(const BackwardArgs& args, int64_t padded)
      : lse(allocate_aligned<A>(padded)),
        factor(allocate_aligned<A>(padded)),
        target(allocate_aligned<A>(padded)) {
    for (int64_t b = 0; b < padded; ++b) {
      const bool exists = b < args.rows.batch;
      lse[b] = exists ? static_cast<const A*>(args.lse)[b] : A(0);
      factor[b] =
          exists ? static_cast<const A*>(args.d_lse)[b] * static_cast<A>(args.rows.scale) : A(0);
      target[b] = exists ? static_cast<const A*>(args.d_target)[b] : A(0);
    }
  }
  Aligned<A> lse, factor, target;
};

// The scratch becomes d_cos / |w_c|, and sums[c] sum_b d_cos cos.
template <class A>
void differentiate(Block<A>& block, A scale, const RowGradients<A>& rows, A* sums) {
  for (int64_t c = 0; c < block.count; ++c) {
    const Vec<A> inverse = splat(block.inverse[c]);
    Vec<A> sum{};
    for (int64_t b = 0; b < block.padded; b += kLanes<A>) {
      const Vec<A> raw = load(block.products + c * block.stride + b) * inverse,
                   cos = clamped<A>(raw);
      Vec<A> d =
          load(rows.factor.get() + b) * exp_of<A>(cos * splat(scale) - load(rows.lse.get() + b));
      const Vec<IndexOf<A>> column = load_index<A>(block.column.get() + b);
      d = column == splat(static_cast<IndexOf<A>>(c)) ? load(rows.target.get() + b) : d;
      d = raw > splat(A(1)) || raw < splat(A(-1)) ? Vec<A>{} : d;
      sum += d * cos;
      store(block.scratch.get() + c * block.padded + b, d * inverse);
    }
    sums[c] = reduce(sum, add);
  }
}

// Rows of the weights' gradient: sum_b scratch[c][b] e_b - w_c sums[c] / |w_c|^2.
template <class T, class A = Accumulate<T>>
void weight_gradient(const Rows& rows, const Embeddings<A>& e, const Block<A>& block, const A* sums,
                     T* out) {
  for (int64_t g = 0; g < e.panels.groups(); ++g) {
    const int64_t left = rows.dim - g * kWidth<A>;
    for (int64_t c = 0; c < block.count; c += kTileRows) {
      with_constant<kTileRows>(
          std::min<int64_t>(kTileRows, block.count - c),
          [&]<int kRows>(std::integral_constant<int, kRows>) {
            Vec<A> tile[kRows][kTileVectors] = {};
            multiply(block.scratch.get() + c * block.padded, block.padded, 1, e.panels.at(g, 0),
                     kWidth<A>, rows.batch, tile);
            for (int r = 0; r < kRows; ++r) {
              const A inverse = block.inverse[c + r];
              const Vec<A> along =
                  splat(norm_counts(inverse) ? sums[c + r] * inverse * inverse : A(0));
              T* const row = out + (c + r) * rows.dim + g * kWidth<A>;
              const A* const w = block.panels.at(g, c + r);
              for (int v = 0; v < kTileVectors; ++v) {
                const int64_t at = v * kLanes<A>;
                const Vec<A> value = tile[r][v] - load(w + at) * along;
                if (left - at >= kLanes<A>) {
                  store(row + at, value);
                } else if (left > at) {
                  store_lanes(row + at, value, std::false_type{}, left - at);
                }
              }
            }
          });
    }
  }
}

// sum[b] += sum_c scratch[c][b] w_c
template <class A>
void add_embedding_gradient(int64_t batch, const Block<A>& block, Panels<A>& sum) {
  for (int64_t g = 0; g < sum.groups(); ++g) {
    for (int64_t b = 0; b < batch; b += kTileRows) {
      with_constant<kTileRows>(std::min<int64_t>(kTileRows, batch - b),
                               [&]<int kRows>(std::integral_constant<int, kRows>) {
                                 Vec<A> tile[kRows][kTileVectors];
                                 for (int r = 0; r < kRows; ++r) {
                                   for (int v = 0; v < kTileVectors; ++v) {
                                     tile[r][v] = load(sum.at(g, b + r) + v * kLanes<A>);
                                   }
                                 }
                                 multiply(block.scratch.get() + b, 1, block.padded,
                                          block.panels.at(g, 0), kWidth<A>, block.count, tile);
                                 for (int r = 0; r < kRows; ++r) {
                                   for (int v = 0; v < kTileVectors; ++v) {
                                     store(sum.at(g, b + r) + v * kLanes<A>, tile[r][v]);
                                   }
                                 }
                               });
    }
  }
}

// Sums the chunks in order and takes out what lies along the embedding itself.
template <class T, class A = Accumulate<T>>
void finish_embeddings(const Rows& rows, const Embeddings<A>& e, const std::vector<Panels<A>>& sums,
                       T* out) {
  const int64_t groups = e.panels.groups();
  std::vector<A> total(groups * kWidth<A>);
  for (int64_t b = 0; b < rows.batch; ++b) {
    Vec<A> dot{};
    for (int64_t g = 0; g < groups; ++g) {
      for (int v = 0; v < kTileVectors; ++v) {
        const int64_t at = v * kLanes<A>;
        Vec<A> value{};
        for (const Panels<A>& s : sums) value += load(s.at(g, b) + at);
        dot += value * load(e.panels.at(g, b) + at);
        store(total.data() + g * kWidth<A> + at, value);
      }
    }
    const A inverse = e.inverse[b];
    const A along = norm_counts(inverse) ? reduce(dot, add) : A(0);
    for (int64_t d = 0; d < rows.dim; ++d) {
      const A unit = e.panels.at(d / kWidth<A>, b)[d % kWidth<A>];
      out[b * rows.dim + d] = narrow<T>((total[d] - unit * along) * inverse);
    }
  }
}

template <class T>
void backward(const BackwardArgs& args) {
  using A = Accumulate<T>;
  const Rows& rows = args.rows;
  T* const d_weight = static_cast<T*>(args.d_weight);
  const Embeddings<A> e(rows, static_cast<const T*>(rows.embeddings));
  const RowGradients<A> gradients(args, e.padded);
  const A scale = static_cast<A>(rows.scale);
  const int64_t chunks = args.d_embeddings ? summed_chunks(rows) : most_chunks(rows);
  std::vector<Panels<A>> sums;
  for (int64_t i = 0; args.d_embeddings && i < chunks; ++i) {
    sums.emplace_back(rows.batch, rows.dim);
  }
  if (d_weight) prefer_huge_pages(d_weight, rows.classes * rows.dim * sizeof(T));
  for_each_block<T, A>(
      rows, e.padded, 3, chunks,
      [&](int64_t chunk) {
        if (args.d_embeddings) sums[chunk].clear();
      },
      [&](int64_t chunk, Block<A>& block) {
        A* const kept = const_cast<A*>(static_cast<const A*>(args.kept));  // is only read
        block.place(kept, kept_row(rows.batch));
        if (!kept) block.multiply_all(e);
        A along[kBlock];
        differentiate(block, scale, gradients, along);
        if (d_weight) weight_gradient(rows, e, block, along, d_weight + block.first * rows.dim);
        if (args.d_embeddings) add_embedding_gradient(rows.batch, block, sums[chunk]);
      });
  if (args.d_embeddings) finish_embeddings(rows, e, sums, static_cast<T*>(args.d_embeddings));
}

}  // namespace

void forward_cpu(const ForwardArgs& args) {
  dispatch_floating<Half, BFloat16>(args.rows.dtype, [&]<class T>() { forward<T>(args); });
}

void backward_cpu(const BackwardArgs& args) {
  dispatch_floating<Half, BFloat16>(args.rows.dtype, [&]<class T>() { backward<T>(args); });
}

}  // namespace facekernels::margin_softmax::FK_CPU_VARIANT
