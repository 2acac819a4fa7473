"""Modules built on the ops, and the backbones of the systems."""

from facekernels.nn.class_activation import (
    CAMHead,
    RebalancedAttentionConsistency,
    class_activation_maps,
)
from facekernels.nn.class_balance import class_balance_weights
from facekernels.nn.gradient_attention import gradient_attention
from facekernels.nn.iresnet import IResNet, iresnet18, iresnet34, iresnet50, iresnet100
from facekernels.nn.mlca import MLCA, LANet, SpatialGate, load_swinface_attention
from facekernels.nn.mobilenet import MobileNetV2
from facekernels.nn.partial_fc import PartialFC
from facekernels.nn.resnet import ResNet, resnet18, resnet34, resnet50
from facekernels.nn.rowwise_adamw import RowwiseAdamW
from facekernels.nn.smooth_label import RebalancedSmoothLabelLoss
from facekernels.nn.swin import SwinTransformer

__all__ = [
    "MLCA",
    "CAMHead",
    "IResNet",
    "LANet",
    "MobileNetV2",
    "PartialFC",
    "RebalancedAttentionConsistency",
    "RebalancedSmoothLabelLoss",
    "ResNet",
    "RowwiseAdamW",
    "SpatialGate",
    "SwinTransformer",
    "class_activation_maps",
    "class_balance_weights",
    "gradient_attention",
    "iresnet18",
    "iresnet34",
    "iresnet50",
    "iresnet100",
    "load_swinface_attention",
    "resnet18",
    "resnet34",
    "resnet50",
]
