"""Drop-in PyTorch ops. One module per op family; everything public is importable from here."""

from facekernels.ops.attention_consistency import FlipConsistency, cam_flip_consistency
from facekernels.ops.components import (
    PooledEdges,
    SoftLabels,
    connected_components,
    label_diffusion,
    link_clusters,
    pool_edges,
    threshold_clusters,
)
from facekernels.ops.conv_pools import ConvPools, conv_mean_max
from facekernels.ops.erase import (
    ErasedRegions,
    ErasedTopN,
    erase_regions,
    erase_top_n,
    sample_rects,
)
from facekernels.ops.gradient_attention import gradient_attention_map
from facekernels.ops.heatmap import decode_heatmaps, decode_simcc
from facekernels.ops.heatmap_encoding import (
    Encoded,
    EncodedSimCC,
    encode_gaussian,
    encode_megvii,
    encode_simcc,
    encode_udp,
    encode_udp_combined,
    encode_unbiased,
)
from facekernels.ops.keypoints import Keypoints, flip_average, transform_keypoints
from facekernels.ops.knn import KNNGraph, knn_graph, knn_recall
from facekernels.ops.linkage import LinkageWeights, linkage_scores
from facekernels.ops.margin_softmax import margin_cross_entropy
from facekernels.ops.mlca import channel_gate, mlca_gate
from facekernels.ops.neighbors import neighbor_mean
from facekernels.ops.peaks import Peaks, heatmap_peaks
from facekernels.ops.sga import sga_aggregate, sga_inner_step_, sga_outer_step_, uap_apply
from facekernels.ops.soft_argmax import local_center_of_mass, soft_argmax
from facekernels.ops.subgraphs import DenseSubgraphs, PivotSubgraphs, pivot_subgraphs

__all__ = [
    "ConvPools",
    "DenseSubgraphs",
    "Encoded",
    "EncodedSimCC",
    "ErasedRegions",
    "ErasedTopN",
    "FlipConsistency",
    "KNNGraph",
    "Keypoints",
    "LinkageWeights",
    "Peaks",
    "PivotSubgraphs",
    "PooledEdges",
    "SoftLabels",
    "cam_flip_consistency",
    "channel_gate",
    "connected_components",
    "conv_mean_max",
    "decode_heatmaps",
    "decode_simcc",
    "encode_gaussian",
    "encode_megvii",
    "encode_simcc",
    "encode_udp",
    "encode_udp_combined",
    "encode_unbiased",
    "erase_regions",
    "erase_top_n",
    "flip_average",
    "gradient_attention_map",
    "heatmap_peaks",
    "knn_graph",
    "knn_recall",
    "label_diffusion",
    "link_clusters",
    "linkage_scores",
    "local_center_of_mass",
    "margin_cross_entropy",
    "mlca_gate",
    "neighbor_mean",
    "pivot_subgraphs",
    "pool_edges",
    "sample_rects",
    "sga_aggregate",
    "sga_inner_step_",
    "sga_outer_step_",
    "soft_argmax",
    "threshold_clusters",
    "transform_keypoints",
    "uap_apply",
]
