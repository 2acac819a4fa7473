"""Sampling and drawing in one call, and a data set that draws on demand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from facekernels.data.faces.parameters import FaceParameters
from facekernels.data.faces.render import FaceBatch, render
from facekernels.data.faces.sampling import Given, sample
from facekernels.data.faces.settings import Settings


def make(
    n: int,
    size: int = 64,
    seed: int = 0,
    settings: Settings | None = None,
    identities: Given | None = None,
    expressions: Given | None = None,
    ages: Given | None = None,
    *,
    intensities: Given | None = None,
    poses: Tensor | None = None,
    attributes: Mapping[str, bool | Tensor] | None = None,
    start: int = 0,
    uint8: bool = False,
) -> FaceBatch:
    """`render` of `sample`, with their arguments and errors.

    With `uint8`, images are uint8 in 0 .. 255, rounded: a quarter of the memory.
    """
    p = sample(
        n, seed, settings, identities, expressions, ages,
        intensities=intensities, poses=poses, attributes=attributes, start=start,
    )  # fmt: skip
    batch = render(p, size)
    return replace(batch, images=to_uint8(batch.images)) if uint8 else batch


def to_uint8(images: Tensor) -> Tensor:
    """[0, 1] to 0 .. 255, rounded."""
    return (images * 255).round_().to(torch.uint8)


class FaceDataset(Dataset[dict[str, Tensor]]):
    """Faces drawn when they are asked for, for `torch.utils.data.DataLoader`.

    Items are dicts with the fields of `FaceBatch`, without the first dimension. Asking for many at
    once (`__getitems__`, which DataLoader does) draws them together.

    Args:
        parameters: from `sample`.
        size: side of the images.
    """

    def __init__(self, parameters: FaceParameters, size: int = 64):
        self.parameters = parameters
        self.size = size

    def __len__(self) -> int:
        return len(self.parameters)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} faces")
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Tensor]]:
        """The items of `indices`."""
        batch: dict[str, Any] = vars(render(self.parameters[torch.tensor(indices)], self.size))
        return [{k: v[i] for k, v in batch.items()} for i in range(len(indices))]
