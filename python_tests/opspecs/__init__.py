"""One OpSpec per public op: what test_ops.py generates its tests from, and what the benchmarks and
the support table rely on. A new op family adds a module here, and its specs at the end of SPECS.

Samples are made in float64 on the CPU; tests convert them to the dtype and device they need.
"""

from __future__ import annotations

from opspecs import (
    attention_consistency,
    conv_pools,
    erase,
    gradient_attention,
    heatmap,
    margin_softmax,
    mlca,
    neighbors,
    peaks,
    sga,
    soft_argmax,
)
from opspecs.spec import OpSpec, Sample, as_tuple

__all__ = ["HOST_DRIVEN", "PLAIN", "SPECS", "OpSpec", "Sample", "as_tuple"]

SPECS: tuple[OpSpec, ...] = (
    *mlca.SPECS,
    *conv_pools.SPECS,
    *margin_softmax.SPECS,
    *heatmap.SPECS,
    *peaks.SPECS,
    *soft_argmax.SPECS,
    *sga.SPECS,
    *gradient_attention.SPECS,
    *erase.SPECS,
    *neighbors.SPECS,
    *attention_consistency.SPECS,
)

# Kernels driven from Python, whose results have sizes that depend on values: no OpSpec, their own
# tests.
HOST_DRIVEN: tuple[str, ...] = (
    "connected_components",
    "knn_graph",
    "link_clusters",
    "linkage_scores",
    "pivot_subgraphs",
    "threshold_clusters",
)

# Public functions that are plain PyTorch: no kernel, so no OpSpec; they have their own tests.
PLAIN: tuple[str, ...] = (
    "encode_gaussian",
    "encode_megvii",
    "encode_simcc",
    "encode_udp",
    "encode_udp_combined",
    "encode_unbiased",
    "flip_average",
    "knn_recall",
    "label_diffusion",
    "pool_edges",
    "sample_rects",
    "transform_keypoints",
)
