"""Drop-in PyTorch ops. One module per op family; everything public is importable from here."""

from facekernels.ops.heatmap import decode_heatmaps, decode_simcc
from facekernels.ops.keypoints import Keypoints
from facekernels.ops.mlca import channel_gate, mlca_gate
from facekernels.ops.peaks import Peaks, heatmap_peaks
from facekernels.ops.soft_argmax import local_center_of_mass, soft_argmax

__all__ = [
    "Keypoints",
    "Peaks",
    "channel_gate",
    "decode_heatmaps",
    "decode_simcc",
    "heatmap_peaks",
    "local_center_of_mass",
    "mlca_gate",
    "soft_argmax",
]
