#pragma once

#include <cstdint>

#include "components/components.h"
#include "core/host_device.h"

namespace facekernels::components {

// A score that is NaN reaches no threshold.
FK_HOST_DEVICE inline bool counts(const ComponentsArgs& args, int64_t e) {
  return !args.score || args.score[e] >= args.threshold;
}

}  // namespace facekernels::components
