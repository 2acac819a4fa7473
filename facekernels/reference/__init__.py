"""Readable plain-PyTorch versions of every op, on any device and dtype."""

from facekernels.reference.attention_consistency import cam_flip_consistency
from facekernels.reference.components import component_roots
from facekernels.reference.conv_pools import conv_mean_max
from facekernels.reference.erase import erase_regions, erase_top_n
from facekernels.reference.gradient_attention import gradient_attention_map
from facekernels.reference.heatmap import decode_heatmaps, decode_simcc
from facekernels.reference.knn import knn_graph
from facekernels.reference.linkage import linkage_scores
from facekernels.reference.margin_softmax import margin_cross_entropy
from facekernels.reference.mlca import channel_gate, mlca_gate
from facekernels.reference.neighbors import neighbor_mean
from facekernels.reference.peaks import heatmap_peaks
from facekernels.reference.sga import sga_aggregate, sga_inner_step, sga_outer_step, uap_apply
from facekernels.reference.soft_argmax import local_center_of_mass, soft_argmax
from facekernels.reference.subgraphs import pivot_subgraphs

__all__ = [
    "cam_flip_consistency",
    "channel_gate",
    "component_roots",
    "conv_mean_max",
    "decode_heatmaps",
    "decode_simcc",
    "erase_regions",
    "erase_top_n",
    "gradient_attention_map",
    "heatmap_peaks",
    "knn_graph",
    "linkage_scores",
    "local_center_of_mass",
    "margin_cross_entropy",
    "mlca_gate",
    "neighbor_mean",
    "pivot_subgraphs",
    "sga_aggregate",
    "sga_inner_step",
    "sga_outer_step",
    "soft_argmax",
    "uap_apply",
]
