"""Drop-in PyTorch ops. One module per op family; everything public is importable from here."""

from facekernels.ops.heatmap import decode_heatmaps, decode_simcc
from facekernels.ops.keypoints import Keypoints
from facekernels.ops.mlca import channel_gate, mlca_gate

__all__ = ["Keypoints", "channel_gate", "decode_heatmaps", "decode_simcc", "mlca_gate"]
