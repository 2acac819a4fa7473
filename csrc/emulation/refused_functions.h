// What a launcher must not do, or no CUDA graph could capture it: allocate, wait, or move data
// between host and device. Calls do not compile here.
#pragma once

#define FK_EMU_REFUSE(name) \
  template <class... Args>  \
  void name(Args&&...) = delete

FK_EMU_REFUSE(cudaMalloc);
FK_EMU_REFUSE(cudaMallocAsync);
FK_EMU_REFUSE(cudaMallocManaged);
FK_EMU_REFUSE(cudaMallocHost);
FK_EMU_REFUSE(cudaHostAlloc);
FK_EMU_REFUSE(cudaFree);
FK_EMU_REFUSE(cudaFreeAsync);
FK_EMU_REFUSE(cudaMemcpy);
FK_EMU_REFUSE(cudaMemcpyAsync);
FK_EMU_REFUSE(cudaMemcpyFromSymbol);
FK_EMU_REFUSE(cudaMemcpyToSymbol);
FK_EMU_REFUSE(cudaMemset);
FK_EMU_REFUSE(cudaDeviceSynchronize);
FK_EMU_REFUSE(cudaStreamSynchronize);
FK_EMU_REFUSE(cudaStreamQuery);
FK_EMU_REFUSE(cudaEventSynchronize);
FK_EMU_REFUSE(cudaEventQuery);

#undef FK_EMU_REFUSE
