// A stack of maps [B, K, H, W] with any strides: what the heatmap kernels read.
#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace facekernels {

struct MapStack {
  int64_t batch, channels, height, width;
  int64_t stride_batch, stride_channel, stride_row, stride_column;

  FK_HOST_DEVICE int64_t count() const { return batch * channels; }
  FK_HOST_DEVICE int64_t cells() const { return height * width; }
  FK_HOST_DEVICE int64_t offset(int64_t map) const {
    return map / channels * stride_batch + map % channels * stride_channel;
  }
  // Whether rows follow each other without gaps, so that a map is one run of memory.
  FK_HOST_DEVICE bool flat() const {
    return (stride_column == 1 || width == 1) && (stride_row == width || height == 1);
  }
};

}  // namespace facekernels
