"""Modules built on the ops."""

from facekernels.nn.gradient_attention import gradient_attention
from facekernels.nn.mlca import MLCA, LANet, SpatialGate, load_swinface_attention

__all__ = ["MLCA", "LANet", "SpatialGate", "gradient_attention", "load_swinface_attention"]
