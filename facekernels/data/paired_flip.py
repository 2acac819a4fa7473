"""Two views of an image: as it is, and mirrored."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils.data import Dataset


class PairedFlip(Dataset[dict[str, Tensor]]):
    """Adds ``"mirror"``, the exact horizontal mirror of ``"image"`` after all augmentation.

    Args:
        data: a data set whose items are dictionaries with ``"image"``.
    """

    def __init__(self, data: Dataset[dict[str, Tensor]]) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)  # type: ignore[arg-type]

    def __getitem__(self, index: Any) -> dict[str, Tensor]:
        item = self.data[index]
        return {**item, "mirror": item["image"].flip(-1)}
