// The extension module. It is compiled twice: as `_C` (CPU kernels and, with nvcc, CUDA kernels)
// and as `_emulated` (the same CUDA sources executed on the CPU).
#include <omp.h>
#include <pybind11/pybind11.h>

#include <stdexcept>

#include "binding/ops.h"
#include "core/cpu_variant.h"

#if defined(FK_WITH_CUDA)
#include <cuda_runtime_api.h>
#endif

namespace facekernels {

namespace py = pybind11;

namespace {

py::dict build_info() {
  py::dict info;
  info["version"] = FK_VERSION;
  info["compiler"] = __VERSION__;
#if defined(FK_EMULATE)
  info["cpu_variant"] = "none";
#else
  try {
    info["cpu_variant"] = cpu_variant_name();
  } catch (const std::invalid_argument& error) {  // the report must work where no op does
    info["cpu_variant"] = error.what();
  }
#endif
#if defined(FK_WITH_CUDA)
  info["cuda"] = CUDART_VERSION;
  info["cuda_archs"] = FK_CUDA_ARCHS;
#else
  info["cuda"] = py::none();
  info["cuda_archs"] = "";
#endif
  return info;
}

// Name and compute capability of every visible GPU, or the reason why there is none.
py::object cuda_devices() {
#if defined(FK_WITH_CUDA)
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    return py::str(cudaGetErrorString(error));
  }
  py::list devices;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) continue;
    devices.append(
        py::make_tuple(std::string(properties.name), properties.major * 10 + properties.minor));
  }
  return devices;
#else
  return py::str("built without CUDA");
#endif
}

}  // namespace

PYBIND11_MODULE(FK_MODULE_NAME, m, py::mod_gil_not_used()) {
  m.doc() = "Kernels of facekernels; use facekernels.ops.";
  m.def("build_info", &build_info);
  m.def("cuda_devices", &cuda_devices);
  m.def("num_threads", [] { return omp_get_max_threads(); });
  bind_mlca(m);
  bind_conv_pools(m);
  bind_heatmap(m);
  bind_peaks(m);
  bind_soft_argmax(m);
  bind_sga(m);
  bind_gradient_attention(m);
  bind_erase(m);
  bind_knn(m);
  bind_neighbors(m);
  bind_subgraphs(m);
  bind_linkage(m);
  bind_components(m);
  bind_margin_softmax(m);
  bind_attention_consistency(m);
}

}  // namespace facekernels
