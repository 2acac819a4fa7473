"""Modules built on the ops."""

from facekernels.nn.mlca import MLCA, LANet, SpatialGate, load_swinface_attention

__all__ = ["MLCA", "LANet", "SpatialGate", "load_swinface_attention"]
