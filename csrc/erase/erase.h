// Erases the parts of images to which an attention map points.
//
//   regions: `rounds` times, the largest cell that is neither erased nor visited is the anchor, and
//            a given rectangle around it is erased
//   top_n:   the `count` largest cells of the map, bilinearly resized to the image, are erased
//
// NaN counts as -infinity, of equal cells the lowest index comes first, and an erased pixel takes
// the fill in every channel. The others keep their bits.
#pragma once

#include <cstdint>

#include "core/cpu_variant.h"
#include "core/cuda_kernel.h"
#include "core/host_device.h"
#include "core/tensor_view.h"

namespace facekernels::erase {

enum class Fill : int32_t { kConstant, kTensor, kNoise };

struct FillRule {
  Fill kind;
  double value;                  // the constant; or the noise is value + u * span, 0 <= u < 1,
  double span, lowest, highest;  // kept within [lowest, highest]
  int64_t seed;                  // unless seed_tensor is given
  const int64_t* seed_tensor;    // one element, or null
  const void* tensor;            // [B, C, H, W], dtype of the images; for kTensor
  int64_t stride[4];             // its strides, which may be 0
};

// x and out are [B, C, H, W] in the same dense layout, [C, H, W] or [H, W, C] within an image.
struct Images {
  int64_t batch, channels, height, width;
  bool channels_last;
  DType dtype;
  const void* x;
  void* out;
  uint8_t* mask;  // [B, 1, H, W], 1 where erased
  FillRule fill;

  FK_HOST_DEVICE int64_t pixels() const { return height * width; }
  FK_HOST_DEVICE int64_t size() const { return channels * pixels(); }  // elements of one image
};

// [B, 1, height, width], dense, float or double
struct Attention {
  int64_t height, width;
  DType dtype;
  const void* data;
};

struct RegionsArgs {
  Images images;
  Attention attention;  // of the images' size
  int64_t rounds;
  const int64_t* rects;  // [B, rounds, 4]: height, width, rows above and columns left of the anchor
  int64_t* anchors;      // [B, rounds], y * W + x; -1 where no cell was left
};

struct TopNArgs {
  Images images;
  Attention attention;
  int64_t count;  // 0 .. H * W
};

FK_CPU_KERNEL(regions_cpu, RegionsArgs)
FK_CPU_KERNEL(top_n_cpu, TopNArgs)
FK_CUDA_KERNEL(regions_cuda, RegionsArgs);
FK_CUDA_KERNEL(top_n_cuda, TopNArgs);

}  // namespace facekernels::erase
