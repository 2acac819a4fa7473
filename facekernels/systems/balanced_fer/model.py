"""Expression classifiers that hand out the features of their class activation maps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from facekernels.data.labels import EXPRESSIONS
from facekernels.nn import CAMHead, MobileNetV2, ResNet, SwinTransformer, resnet18, resnet50
from facekernels.systems.common.checkpoint import (
    ENTRY,
    backbone_state,
    build_network,
    fitting,
    load_state,
    read_checkpoint,
)

SYSTEM, FORMAT = "balanced_fer", 1

BACKBONES: dict[str, Callable[..., Any]] = {
    "swin_t": SwinTransformer,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "resnet": ResNet,
    "mobilenet_v2": MobileNetV2,
}
"""Constructors by name; options are theirs."""


class ExpressionNet(nn.Module):
    """Backbone, mean over positions, linear classifier.

    Args:
        backbone: a name of `BACKBONES`.
        num_classes: K.
        image_size: side of the images, pixels. Convolutional backbones take others, too.
        **options: arguments of the backbone.

    Attributes:
        class_names: what the outputs mean: the seven expressions, what the checkpoint says, or
            numbers.

    Raises:
        ValueError: an argument that the backbone does not have, by name.

    The published Swin-T has a LayerNorm of its own between backbone and mean; ResNets have none.

    Shape:
        images ``[B, 3, S, S]`` in [-1, 1]; logits ``[B, K]``, features ``[B, C, h, w]``. The logits
        are the mean of ``class_activation_maps(features, head.weight)`` plus the bias.

    Source: Zhang et al., Leave No Stone Unturned: Mine Extra Knowledge for Imbalanced Facial
    Expression Recognition, NeurIPS 2023, figure 2; the LayerNorm is the released code's.
    """

    def __init__(
        self,
        backbone: str = "swin_t",
        num_classes: int = 7,
        image_size: int = 112,
        **options: Any,
    ) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"backbone must be one of {', '.join(BACKBONES)}, got {backbone!r}")
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        self.settings = {
            "backbone": backbone, "num_classes": num_classes, "image_size": image_size, **options,
        }  # fmt: skip
        self.image_size = image_size
        sized = {"image_size": image_size} if backbone == "swin_t" else {}
        try:
            self.backbone = BACKBONES[backbone](**sized, **options)
        except TypeError as error:
            raise ValueError(f"backbone_options do not fit {backbone}: {error}") from error
        width: int = self.backbone.num_features
        self.norm = nn.LayerNorm(width) if backbone == "swin_t" else nn.Identity()
        for name in ("norm", "feature", "head"):  # of a recognition checkpoint, and idle here
            if hasattr(self.backbone, name):
                self.backbone.get_submodule(name).requires_grad_(False)
        self.head = CAMHead(width, num_classes)
        numbers = tuple(map(str, range(num_classes)))
        self.class_names = EXPRESSIONS if num_classes == len(EXPRESSIONS) else numbers

    def features(self, images: Tensor) -> Tensor:
        """``[B, C, h, w]``: what the classifier averages."""
        features: Tensor = self.backbone.forward_features(images)
        if isinstance(self.norm, nn.Identity):
            return features
        # LayerNorm over channels; the result is channels_last, which the consistency op reads.
        return self.norm(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def classify(self, features: Tensor) -> Tensor:
        """``[B, K]`` logits of features."""
        return self.head(features)

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.features(images))

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> ExpressionNet:
        """The network of a training's checkpoint, in evaluation mode.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, or of another system or format.
        """
        checkpoint = read_checkpoint(path)
        network = build_network(cls, checkpoint, path, SYSTEM, FORMAT)
        with fitting(path):
            network.class_names = tuple(checkpoint[ENTRY]["class_names"])
        return network


def load_backbone(network: ExpressionNet, path: str | Path) -> None:
    """Start from the backbone of a checkpoint; classifier and embedding in it are left alone.

    `facekernels.systems.common.checkpoint.backbone_state` says which files it may be.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or does not fit; the sentence names the keys.
    """
    idle = ("fc.", "head.", "classifier.", "feature.")
    load_state(network.backbone, backbone_state(path), f"{path}: backbone", idle)
