// Every op family registers its functions through one of these.
#pragma once

#include <pybind11/pybind11.h>

namespace facekernels {

void bind_mlca(pybind11::module_& m);
void bind_conv_pools(pybind11::module_& m);
void bind_heatmap(pybind11::module_& m);
void bind_peaks(pybind11::module_& m);
void bind_soft_argmax(pybind11::module_& m);
void bind_sga(pybind11::module_& m);
void bind_gradient_attention(pybind11::module_& m);
void bind_erase(pybind11::module_& m);
void bind_knn(pybind11::module_& m);
void bind_neighbors(pybind11::module_& m);
void bind_subgraphs(pybind11::module_& m);
void bind_linkage(pybind11::module_& m);
void bind_components(pybind11::module_& m);
void bind_margin_softmax(pybind11::module_& m);
void bind_attention_consistency(pybind11::module_& m);

}  // namespace facekernels
