// ldmatrix and mma.sync of core/matrix.cuh, which says what they do, as warp functions.
#pragma once

#include <cstring>

#include "half_types.h"
#include "runtime.h"

namespace facekernels::emulation {

inline void combine_matrix_load(LaneData* const lanes[kLanes], uint32_t, unsigned) {
  for (unsigned l = 0; l < kLanes; ++l) {
    for (unsigned m = 0; m < 4; ++m) {
      std::memcpy(lanes[l]->output + 4 * m, lanes[8 * m + l / 4]->input + 4 * (l % 4), 4);
    }
  }
}

// What a lane hands to the product.
struct Fragments {
  __half a[4][2], b[2][2];
};

inline void combine_matrix_product(LaneData* const lanes[kLanes], uint32_t, unsigned) {
  float a[16][16], b[16][8];
  for (unsigned l = 0; l < kLanes; ++l) {
    Fragments f;
    std::memcpy(static_cast<void*>(&f), lanes[l]->input, sizeof f);
    const unsigned g = l / 4, t = l % 4;
    for (unsigned i = 0; i < 2; ++i) {
      for (unsigned q = 0; q < 4; ++q) {
        a[g + q % 2 * 8][2 * t + i + q / 2 * 8] = __half2float(f.a[q][i]);
      }
      for (unsigned q = 0; q < 2; ++q) b[2 * t + i + q * 8][g] = __half2float(f.b[q][i]);
    }
  }
  for (unsigned l = 0; l < kLanes; ++l) {
    float product[4] = {};
    for (unsigned i = 0; i < 4; ++i) {
      for (unsigned k = 0; k < 16; ++k) {
        product[i] += a[l / 4 + i / 2 * 8][k] * b[k][2 * (l % 4) + i % 2];
      }
    }
    std::memcpy(lanes[l]->output, product, sizeof product);
  }
}

inline void matrix_function(Operation operation, const void* input, unsigned bytes, void* output,
                            CombineLanes combine, const SourceLocation& where) {
  warp_collective({.operation = operation,
                   .mask = 0xffffffffu,
                   .input = input,
                   .input_bytes = bytes,
                   .output = output,
                   .output_bytes = 16,
                   .combine = combine},
                  where);
}

}  // namespace facekernels::emulation

namespace facekernels {

// The lane itself reads its row, so that the sanitizers see the access.
inline void load_matrices(uint32_t (&r)[4], const void* row, FK_EMU_HERE) {
  using namespace emulation;
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) {
    report_error("ldmatrix: the row is not aligned to 16 bytes", fk_emu_location);
  }
  uint32_t words[4];
  for (int i = 0; i < 4; ++i) words[i] = static_cast<const uint32_t*>(row)[i];
  matrix_function(Operation::kMatrixLoad, words, sizeof words, r, combine_matrix_load,
                  fk_emu_location);
}

inline void multiply_halves(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                            FK_EMU_HERE) {
  using namespace emulation;
  const uint32_t words[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  static_assert(sizeof words == sizeof(Fragments));
  float product[4];
  matrix_function(Operation::kMatrixProduct, words, sizeof words, product, combine_matrix_product,
                  fk_emu_location);
  for (int i = 0; i < 4; ++i) sum[i] += product[i];
}

}  // namespace facekernels
