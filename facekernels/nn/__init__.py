"""Modules built on the ops."""

from facekernels.nn.class_activation import (
    CAMHead,
    RebalancedAttentionConsistency,
    class_activation_maps,
)
from facekernels.nn.class_balance import class_balance_weights
from facekernels.nn.gradient_attention import gradient_attention
from facekernels.nn.mlca import MLCA, LANet, SpatialGate, load_swinface_attention
from facekernels.nn.smooth_label import RebalancedSmoothLabelLoss

__all__ = [
    "MLCA",
    "CAMHead",
    "LANet",
    "RebalancedAttentionConsistency",
    "RebalancedSmoothLabelLoss",
    "SpatialGate",
    "class_activation_maps",
    "class_balance_weights",
    "gradient_attention",
    "load_swinface_attention",
]
