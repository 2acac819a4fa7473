"""The two sets of the reproduction, split into images to train on and images to judge by."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from facekernels.data import balanced_indices, digits, lfw_crops


class Split(NamedTuple):
    """Real images in two parts that share none."""

    train: Tensor
    """``[N, C, H, W]`` uint8: surrogates and perturbations are trained on these."""
    labels: Tensor
    held_out: Tensor
    """``[M, C, H, W]`` uint8: only these are judged."""
    held_out_labels: Tensor
    classes: int


_PER_CLASS = {"digits": 50, "faces": 60}
SETS: tuple[str, ...] = tuple(_PER_CLASS)
"""Names that `split` knows."""


def split(name: str, seed: int) -> Split:
    """A class-balanced draw for training, and everything else.

    ``"digits"``: 500 of scikit-learn's 1797 digits, 10 classes, 1297 held out. ``"faces"``: 120 of
    the 200 LFW crops that scikit-image ships, face or background, 80 held out.
    """
    if name not in _PER_CLASS:
        raise ValueError(f"name must be one of {', '.join(SETS)}, got {name!r}")
    images, labels = digits() if name == "digits" else lfw_crops()
    if images.dtype is not torch.uint8:
        images = (255 * images).round().byte()
    rows = balanced_indices(labels, _PER_CLASS[name], seed=seed)
    rest = torch.ones(len(images), dtype=torch.bool)
    rest[rows] = False
    return Split(images[rows], labels[rows], images[rest], labels[rest], int(labels.max()) + 1)
