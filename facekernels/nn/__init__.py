"""Modules built on the ops."""

from facekernels.nn.gradient_attention import gradient_attention
from facekernels.nn.mlca import MLCA, LANet, SpatialGate, load_swinface_attention
from facekernels.nn.partial_fc import PartialFC
from facekernels.nn.rowwise_adamw import RowwiseAdamW

__all__ = [
    "MLCA",
    "LANet",
    "PartialFC",
    "RowwiseAdamW",
    "SpatialGate",
    "gradient_attention",
    "load_swinface_attention",
]
