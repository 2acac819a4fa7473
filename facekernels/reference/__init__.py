"""Readable plain-PyTorch versions of every op, on any device and dtype."""

from facekernels.reference.heatmap import decode_heatmaps, decode_simcc
from facekernels.reference.mlca import channel_gate, mlca_gate

__all__ = ["channel_gate", "decode_heatmaps", "decode_simcc", "mlca_gate"]
