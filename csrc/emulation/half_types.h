// float4 and friends with their make_ functions, __half and __nv_bfloat16: the toolkit's headers
// work on the host, except for what math_functions.h and atomics.h add.
#pragma once

// clang-format off
#include "cuda_types.h"  // first: it defines the qualifiers
// clang-format on

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <vector_functions.h>
