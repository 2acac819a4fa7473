"""Readable plain-PyTorch versions of every op, on any device and dtype."""

from facekernels.reference.erase import erase_regions, erase_top_n
from facekernels.reference.gradient_attention import gradient_attention_map
from facekernels.reference.heatmap import decode_heatmaps, decode_simcc
from facekernels.reference.mlca import channel_gate, mlca_gate
from facekernels.reference.peaks import heatmap_peaks
from facekernels.reference.sga import sga_aggregate, sga_inner_step, sga_outer_step, uap_apply
from facekernels.reference.soft_argmax import local_center_of_mass, soft_argmax

__all__ = [
    "channel_gate",
    "decode_heatmaps",
    "decode_simcc",
    "erase_regions",
    "erase_top_n",
    "gradient_attention_map",
    "heatmap_peaks",
    "local_center_of_mass",
    "mlca_gate",
    "sga_aggregate",
    "sga_inner_step",
    "sga_outer_step",
    "soft_argmax",
    "uap_apply",
]
