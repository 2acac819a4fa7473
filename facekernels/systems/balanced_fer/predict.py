"""Expressions of face images, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from facekernels.systems.balanced_fer.model import ExpressionNet
from facekernels.systems.common.picture import as_input, beside

load = ExpressionNet.from_checkpoint


@dataclass(frozen=True)
class ExpressionPrediction:
    """What the network sees in one face."""

    expression: str
    """The most probable class."""
    probabilities: dict[str, float]
    """Of every class."""
    attention: Tensor
    """``[h, w]`` class activation map of that class."""

    def lines(self) -> list[str]:
        """A line per class, the most probable first."""
        ordered = sorted(self.probabilities.items(), key=lambda item: -item[1])
        return [f"{name} {100 * p:.1f} %" for name, p in ordered]

    def __str__(self) -> str:
        return ", ".join(self.lines())


@torch.inference_mode()
def predict(network: ExpressionNet, images: Tensor) -> list[ExpressionPrediction]:
    """Expressions of face crops.

    Args:
        network: in evaluation mode.
        images: ``[B, 3, H, W]`` RGB, uint8 or float in [0, 1], of any size: the central
            square, resized to the network's.

    Raises:
        TypeError: the images are neither uint8 nor floating point.
        ValueError: they are not ``[B, 3, H, W]``.
    """
    names = network.class_names
    features = network.features(as_input(images, network.image_size))
    probabilities = network.classify(features).softmax(1)
    best = probabilities.argmax(1)
    maps = torch.einsum("bchw,bc->bhw", features, network.head.weight[best])
    return [
        ExpressionPrediction(
            names[int(k)], {n: float(q) for n, q in zip(names, p, strict=True)}, attention
        )
        for p, k, attention in zip(probabilities, best, maps, strict=True)
    ]


def draw(image: Tensor, prediction: ExpressionPrediction) -> Any:
    """A PIL image: the face ``[3, H, W]`` uint8 with the classes beside it."""
    return beside(image, prediction.lines())
