"""Images in memory with their labels, fetched a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset


class LabelledImages(Dataset[dict[str, Tensor]]):
    """uint8 images and any number of label tensors.

    Args:
        images: ``[N, C, H, W]`` uint8.
        labels: name to ``[N, ...]`` tensor.
        augment: called with float images in [0, 1] and keys (`keyed_random`); None for none.

    A batch is a dictionary: ``"image"`` float32 in [-1, 1], and the labels' rows. It is asked for
    by a list of draws (index, key), as `StepBatches` gives them, or of plain indices, which are
    not augmented.
    """

    def __init__(
        self,
        images: Tensor,
        labels: dict[str, Tensor],
        augment: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        if images.ndim != 4 or images.dtype != torch.uint8:
            raise ValueError(
                f"images must be [N, C, H, W] uint8, got shape {tuple(images.shape)} of "
                f"{images.dtype}"
            )
        for name, values in labels.items():
            if len(values) != len(images):
                raise ValueError(
                    f"labels[{name!r}] must have {len(images)} rows, got {len(values)}"
                )
        self.images, self.labels, self.augment = images, labels, augment

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> dict[str, Tensor]:
        return {name: rows[0] for name, rows in self.__getitems__([index]).items()}

    def __getitems__(self, draws: Sequence[Any]) -> dict[str, Tensor]:
        """The batch of these draws or indices."""
        keyed = isinstance(draws[0], tuple)
        rows = torch.tensor([d[0] if keyed else d for d in draws])
        images = self.images[rows].float() / 255
        if keyed and self.augment is not None:
            images = self.augment(images, torch.tensor([d[1] for d in draws]))
        return {
            "image": images.sub(0.5).div(0.5),
            **{name: values[rows] for name, values in self.labels.items()},
        }
