"""Images with labels as a reader gives them, and the data set that decodes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from facekernels.data.image_sources import Images, UnreadableImage
from facekernels.data.report import Report


@dataclass(frozen=True)
class ImageList:
    """Images that are decoded when they are needed, and their labels.

    Only usable entries are in it; `report` tells what the others were.
    """

    images: Images
    labels: dict[str, Tensor]
    """Name to ``[N, ...]``."""
    classes: tuple[str, ...] = ()
    """Names of the values of ``labels["label"]``, where there is one."""
    report: Report = field(default_factory=Report)

    def __post_init__(self) -> None:
        for name, values in self.labels.items():
            if len(values) != len(self.images):
                raise ValueError(
                    f"labels[{name!r}] must have {len(self.images)} rows, got {len(values)}"
                )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def class_counts(self) -> Tensor:
        """``[K]`` images of each class."""
        return torch.bincount(self.labels["label"], minlength=len(self.classes))

    def subset(self, rows: Tensor | Sequence[int]) -> ImageList:
        """These rows in this order."""
        chosen = torch.as_tensor(rows, dtype=torch.int64)
        labels = {name: values[chosen] for name, values in self.labels.items()}
        images = self.images.subset(chosen.tolist())
        return ImageList(images, labels, self.classes, self.report)


def check_images(images: Images, report: Report, count: int | None = None) -> list[int]:
    """Decode `count` images, evenly spaced, or all; damaged ones go into the report.

    Returns:
        The rows of the damaged ones.
    """
    total = len(images)
    number = total if count is None else min(count, total)
    damaged = []
    for row in (i * total // number for i in range(number)):
        try:
            images.read(row)
        except UnreadableImage as error:
            report.add("unreadable image", images.name(row), str(error.__cause__ or error))
            damaged.append(row)
    return damaged


Transform = Callable[[Tensor, torch.Generator | None], Tensor]
"""Takes ``[3, H, W]`` uint8; random steps draw from the generator and are left out without one."""


class ImageListDataset(Dataset[dict[str, Tensor]]):
    """Decodes and transforms one image at a time.

    An item is a dictionary: ``"image"``, and the labels' row. It is asked for by an index, or by a
    draw (index, key): only draws are augmented, with a generator seeded by the key. A damaged image
    is an error, never replaced by another one.

    Args:
        images: from one of the readers.
        transform: see `facekernels.data.transforms`; None gives the uint8 image.
    """

    def __init__(self, images: ImageList, transform: Transform | None = None) -> None:
        self.images, self.transform = images.images, transform
        self.labels, self.classes = images.labels, images.classes

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> dict[str, Tensor]:
        row, generator = index, None
        if isinstance(index, tuple):
            row, key = index
            generator = torch.Generator().manual_seed(key)
        image = self.images.read(row)
        if self.transform is not None:
            image = self.transform(image, generator)
        return {"image": image, **{name: values[row] for name, values in self.labels.items()}}
