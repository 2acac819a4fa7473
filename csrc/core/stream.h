// The CUDA stream type without the CUDA headers: cudaStream_t is a pointer to this struct.
#pragma once

struct CUstream_st;

namespace facekernels {

using Stream = CUstream_st*;

}  // namespace facekernels
