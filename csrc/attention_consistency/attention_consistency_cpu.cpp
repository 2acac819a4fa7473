#include <algorithm>
#include <array>
#include <type_traits>
#include <utility>
#include <vector>

#include "attention_consistency/attention_consistency.h"
#include "attention_consistency/attention_consistency_math.h"
#include "attention_consistency/mirror_rows.h"
#include "core/huge_pages.h"
#include "core/parallel.h"
#include "core/simd.h"
#include "core/simd_run.h"

namespace facekernels::attention_consistency::FK_CPU_VARIANT {
namespace {

using namespace facekernels::FK_CPU_VARIANT;

// Rows by vectors of a product that are kept in registers.
#if defined(__AVX512F__)
constexpr int kRows = 8;
#else
constexpr int kRows = 4;
#endif
constexpr int kColumns = 3;

// Positions whose residuals are summed up together, and differences kept in the first cache.
constexpr int64_t kBlock = 256;
constexpr int64_t kDifferences = 4096;
// Elements of a gradient that are written before their mirrored copies are.
constexpr int64_t kWritten = 2048;

// f<count>(first) for [0, total) in pieces of kMax, the last one of what is left.
template <int kMax, class F>
void for_each_piece(int64_t total, F f) {
  int64_t i = 0;
  for (; i + kMax <= total; i += kMax) f.template operator()<kMax>(i);
  [&]<int... I>(std::integer_sequence<int, I...>) {
    ((total - i == I + 1 ? f.template operator()<I + 1>(i) : void()), ...);
  }(std::make_integer_sequence<int, kMax - 1>{});
}

// ---- forward

// out[k][j] += sum_c weight[k][c] tile[c][j] for `count` columns, of which whole vectors are read
// and written.
template <class A>
void add_product(const A* weight, int64_t weight_stride, int64_t classes, const A* tile,
                 int64_t tile_stride, int64_t channels, int64_t count, A* out, int64_t out_stride) {
  for_each_piece<kRows>(classes, [&]<int kSome>(int64_t k0) {
    for_each_piece<kColumns>((count + kLanes<A> - 1) / kLanes<A>, [&]<int kVectors>(int64_t v0) {
      const A* const w = weight + k0 * weight_stride;
      const A* const from = tile + v0 * kLanes<A>;
      A* const to = out + k0 * out_stride + v0 * kLanes<A>;
      Vec<A> sums[kSome][kVectors] = {};
      for (int64_t c = 0; c < channels; ++c) {
        Vec<A> values[kVectors];
        for (int v = 0; v < kVectors; ++v) values[v] = load(from + c * tile_stride + v * kLanes<A>);
#pragma GCC unroll 8
        for (int k = 0; k < kSome; ++k) {
          const Vec<A> factor = splat(w[k * weight_stride + c]);
#pragma GCC unroll 8
          for (int v = 0; v < kVectors; ++v) sums[k][v] += factor * values[v];
        }
      }
      for (int k = 0; k < kSome; ++k) {
        for (int v = 0; v < kVectors; ++v) {
          A* const at = to + k * out_stride + v * kLanes<A>;
          store(at, load(at) + sums[k][v]);
        }
      }
    });
  });
}

// NCHW: differences of some channels at a block of rows are laid out first, because a mirrored row
// is no vector.
template <class T, class A = Accumulate<T>>
void residual_of_rows(const ForwardArgs& args) {
  const Shape& shape = args.shape;
  const int64_t positions = shape.positions(), width = shape.width;
  const int64_t block_rows = std::clamp<int64_t>(kBlock / width, 1, shape.height);
  const int64_t blocks = (shape.height + block_rows - 1) / block_rows;
  const int64_t most = block_rows * width;
  const int64_t padded = (most + kLanes<A> - 1) / kLanes<A> * kLanes<A>;
  const int64_t group = std::clamp<int64_t>(kDifferences / most, 1, shape.channels);
  parallel_for(shape.batch * blocks, shape.channels * most, [&](int64_t begin, int64_t end) {
    std::vector<A> tile(group * most + kLanes<A>), sums(shape.classes * padded);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t b = item / blocks, row = item % blocks * block_rows;
      const int64_t rows = std::min(block_rows, shape.height - row), count = rows * width;
      const T* const features =
          static_cast<const T*>(args.features) + b * args.features_stride + row * width;
      const T* const flipped =
          static_cast<const T*>(args.flipped) + b * args.flipped_stride + row * width;
      std::fill(sums.begin(), sums.end(), A(0));
      for (int64_t c = 0; c < shape.channels; c += group) {
        const int64_t channels = std::min(group, shape.channels - c);
        auto subtract = [&](int64_t from, A* to, int64_t of_rows) {
          mirror_rows(flipped + from, of_rows, width,
                      [&](int64_t i, Vec<A> mirror, auto full, int64_t lanes) {
                        const Vec<A> own = load_lanes(features + from + i, full, lanes);
                        store_lanes(to + i, own - mirror, full, lanes);
                      });
        };
        if (blocks == 1) {  // channels follow each other
          subtract(c * positions, tile.data(), channels * rows);
        } else {
          for (int64_t i = 0; i < channels; ++i) {
            subtract((c + i) * positions, tile.data() + i * count, rows);
          }
        }
        add_product(static_cast<const A*>(args.weight) + c, shape.channels, shape.classes,
                    tile.data(), count, channels, count, sums.data(), padded);
      }
      A* const residual =
          static_cast<A*>(args.residual) + b * shape.classes * positions + row * width;
      for (int64_t k = 0; k < shape.classes; ++k) {
        std::copy_n(sums.data() + k * padded, count, residual + k * positions);
      }
    }
  });
}

// channels_last: dot products of some classes' weights with the differences at some positions.
template <class T, class A = Accumulate<T>>
void residual_of_columns(const ForwardArgs& args) {
  const Shape& shape = args.shape;
  const int64_t positions = shape.positions(), channels = shape.channels;
  const A* const weight = static_cast<const A*>(args.weight);
  parallel_for(shape.batch * positions, channels, [&](int64_t begin, int64_t end) {
    for_each_piece<kColumns>(end - begin, [&]<int kVectors>(int64_t first) {
      const T* own[kVectors];
      const T* mirror[kVectors];
      A* out[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        const int64_t item = begin + first + v, b = item / positions, p = item % positions;
        own[v] = static_cast<const T*>(args.features) + b * args.features_stride + p * channels;
        mirror[v] = static_cast<const T*>(args.flipped) + b * args.flipped_stride +
                    mirrored(p, shape.width) * channels;
        out[v] = static_cast<A*>(args.residual) + b * shape.classes * positions + p;
      }
      for_each_piece<kRows>(shape.classes, [&]<int kSome>(int64_t k0) {
        const A* const w = weight + k0 * channels;
        Vec<A> sums[kSome][kVectors] = {};
        for_each_vector<A>(channels, [&](int64_t c, auto full, int64_t lanes) {
          Vec<A> differences[kVectors];
#pragma GCC unroll 8
          for (int v = 0; v < kVectors; ++v) {
            differences[v] =
                load_lanes(own[v] + c, full, lanes) - load_lanes(mirror[v] + c, full, lanes);
          }
#pragma GCC unroll 8
          for (int k = 0; k < kSome; ++k) {
            const Vec<A> factor = load_lanes(w + k * channels + c, full, lanes);
#pragma GCC unroll 8
            for (int v = 0; v < kVectors; ++v) sums[k][v] += factor * differences[v];
          }
        });
        for (int k = 0; k < kSome; ++k) {
          for (int v = 0; v < kVectors; ++v) {
            out[v][(k0 + k) * positions] = reduce(sums[k][v], add);
          }
        }
      });
    });
  });
}

// Means of squares per sample and class, then over the batch.
template <class A>
void means(const ForwardArgs& args) {
  const Shape& shape = args.shape;
  const int64_t classes = shape.classes, positions = shape.positions();
  const A* const residual = static_cast<const A*>(args.residual);
  const A* const class_weights = static_cast<const A*>(args.class_weights);
  A* const loss = static_cast<A*>(args.loss);
  A* const per_class = static_cast<A*>(args.per_class);
  std::vector<A> workspace(args.per_sample ? 0 : shape.batch * classes);
  A* const of_samples = args.per_sample ? per_class : workspace.data();
  parallel_for(shape.batch * classes, positions, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      Vec<A> sum{};
      for_each_vector<A>(positions, [&](int64_t p, auto full, int64_t lanes) {
        const Vec<A> r = load_lanes(residual + row * positions + p, full, lanes);
        sum += r * r;
      });
      of_samples[row] = reduce(sum, add) / static_cast<A>(positions);
    }
  });
  if (!args.per_sample) {
    for (int64_t k = 0; k < classes; ++k) {
      A sum = 0;
      for (int64_t b = 0; b < shape.batch; ++b) sum += of_samples[b * classes + k];
      per_class[k] = sum / static_cast<A>(shape.batch);
    }
  }
  for (int64_t row = 0; row < (args.per_sample ? shape.batch : 1); ++row) {
    loss[row] = 0;
    for (int64_t k = 0; k < classes; ++k) {
      const A value = per_class[row * classes + k];
      loss[row] += class_weights != nullptr ? class_weights[k] * value : value;
    }
  }
}

// ---- backward

// out[i][j] = sum_k left[k * left_row + i * left_step] right[k * right_row + j]: rows and vectors
// in pieces, each handed over as put(i, at, vector, full, lanes). The last vector ends with the
// row, so that some columns are computed twice; only rows shorter than a vector are partial.
template <class A, class Put>
void product(const A* left, int64_t left_row, int64_t left_step, int64_t rows, const A* right,
             int64_t right_row, int64_t count, int64_t classes, Put put) {
  if (count < kLanes<A>) {
    const std::false_type part{};
    for (int64_t i = 0; i < rows; ++i) {
      Vec<A> sum{};
      for (int64_t k = 0; k < classes; ++k) {
        sum += splat(left[k * left_row + i * left_step]) *
               load_lanes(right + k * right_row, part, count);
      }
      put(i, 0, sum, part, count);
    }
    return;
  }
  for_each_piece<kRows>(rows, [&]<int kSome>(int64_t i0) {
    for_each_piece<kColumns>((count + kLanes<A> - 1) / kLanes<A>, [&]<int kVectors>(int64_t v0) {
      int64_t at[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        at[v] = std::min((v0 + v) * kLanes<A>, count - kLanes<A>);
      }
      Vec<A> sums[kSome][kVectors] = {};
      for (int64_t k = 0; k < classes; ++k) {
        Vec<A> values[kVectors];
        for (int v = 0; v < kVectors; ++v) values[v] = load(right + k * right_row + at[v]);
#pragma GCC unroll 8
        for (int i = 0; i < kSome; ++i) {
          const Vec<A> factor = splat(left[k * left_row + (i0 + i) * left_step]);
#pragma GCC unroll 8
          for (int v = 0; v < kVectors; ++v) sums[i][v] += factor * values[v];
        }
      }
#pragma GCC unroll 8
      for (int i = 0; i < kSome; ++i) {
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
          put(i0 + i, at[v], sums[i][v], std::true_type{}, kLanes<A>);
        }
      }
    });
  });
}

// NCHW: some channels of one view, then the same reversed row by row for the other.
template <class T, class A = Accumulate<T>>
void gradient_of_rows(const BackwardArgs& args) {
  const Shape& shape = args.shape;
  const int64_t positions = shape.positions(), classes = shape.classes;
  const int64_t group = std::clamp<int64_t>(kWritten / positions, 1, shape.channels);
  const int64_t groups = (shape.channels + group - 1) / group;
  parallel_for(shape.batch * groups, 2 * group * positions, [&](int64_t begin, int64_t end) {
    std::vector<A> gradient(classes * positions);
    std::vector<T> own(args.d_features == nullptr ? group * positions : 0);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t b = item / groups, c = item % groups * group;
      const int64_t channels = std::min(group, shape.channels - c);
      const int64_t first = b * shape.size() + c * positions;
      if (item == begin || c == 0) {
        const A* const residual = static_cast<const A*>(args.residual) + b * classes * positions;
        for (int64_t k = 0; k < classes; ++k) {
          const A s = coefficient<A>(args, b, k);
          for (int64_t p = 0; p < positions; ++p) {
            gradient[k * positions + p] = s * residual[k * positions + p];
          }
        }
      }
      T* const out =
          args.d_features != nullptr ? static_cast<T*>(args.d_features) + first : own.data();
      product(static_cast<const A*>(args.weight) + c, shape.channels, 1, channels, gradient.data(),
              positions, positions, classes,
              [&](int64_t i, int64_t at, Vec<A> values, auto full, int64_t lanes) {
                store_lanes(out + i * positions + at, values, full, lanes);
              });
      if (args.d_flipped == nullptr) continue;
      T* const other = static_cast<T*>(args.d_flipped) + first;
      mirror_rows(static_cast<const T*>(out), channels * shape.height, shape.width,
                  [&](int64_t i, Vec<A> mirror, auto full, int64_t lanes) {
                    store_lanes(other + i, -mirror, full, lanes);
                  });
    }
  });
}

// channels_last: whole rows of channels, each written to its position and negated to the mirrored
// one.
template <class T, class A = Accumulate<T>>
void gradient_of_columns(const BackwardArgs& args) {
  const Shape& shape = args.shape;
  const int64_t positions = shape.positions(), channels = shape.channels, classes = shape.classes;
  parallel_for(shape.batch * positions, 2 * channels, [&](int64_t begin, int64_t end) {
    std::vector<A> gradient(kRows * classes);
    for (int64_t item = begin; item < end; item += kRows) {
      const int64_t count = std::min<int64_t>(kRows, end - item);
      std::array<T*, kRows> own, other;
      for (int64_t i = 0; i < count; ++i) {
        const int64_t b = (item + i) / positions, p = (item + i) % positions;
        const int64_t image = b * shape.size();
        own[i] = other[i] = nullptr;
        if (args.d_features != nullptr) {
          own[i] = static_cast<T*>(args.d_features) + image + p * channels;
        }
        if (args.d_flipped != nullptr) {
          other[i] = static_cast<T*>(args.d_flipped) + image + mirrored(p, shape.width) * channels;
        }
        for (int64_t k = 0; k < classes; ++k) {
          gradient[k * kRows + i] =
              coefficient<A>(args, b, k) *
              static_cast<const A*>(args.residual)[(b * classes + k) * positions + p];
        }
      }
      product(gradient.data(), kRows, 1, count, static_cast<const A*>(args.weight), channels,
              channels, classes,
              [&](int64_t i, int64_t at, Vec<A> values, auto full, int64_t lanes) {
                if (own[i] != nullptr) store_lanes(own[i] + at, values, full, lanes);
                if (other[i] != nullptr) store_lanes(other[i] + at, -values, full, lanes);
              });
    }
  });
}

}  // namespace

void forward_cpu(const ForwardArgs& args) {
  dispatch_floating<Half, BFloat16>(args.dtype, [&]<class T>() {
    if (args.shape.channels_last) {
      residual_of_columns<T>(args);
    } else {
      residual_of_rows<T>(args);
    }
    if (args.loss != nullptr) means<Accumulate<T>>(args);
  });
}

void backward_cpu(const BackwardArgs& args) {
  dispatch_floating<Half, BFloat16>(args.dtype, [&]<class T>() {
    const size_t bytes = args.shape.batch * args.shape.size() * sizeof(T);
    if (args.d_features != nullptr) prefer_huge_pages(args.d_features, bytes);
    if (args.d_flipped != nullptr) prefer_huge_pages(args.d_flipped, bytes);
    if (args.shape.channels_last) {
      gradient_of_columns<T>(args);
    } else {
      gradient_of_rows<T>(args);
    }
  });
}

}  // namespace facekernels::attention_consistency::FK_CPU_VARIANT
