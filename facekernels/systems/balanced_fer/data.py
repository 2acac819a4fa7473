"""Expression data: RAF-DB, AffectNet, FERPlus, and made-up faces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from facekernels.data import (
    ImageList,
    ImageListDataset,
    faces,
    imbalanced_counts,
    inverse_frequency_weights,
    subsample_to_counts,
)
from facekernels.data.batch_augment import BatchAugment
from facekernels.data.labelled import LabelledImages
from facekernels.data.labels import EXPRESSIONS
from facekernels.data.readers import read_affectnet, read_ferplus, read_rafdb
from facekernels.data.transforms import analysis_transform, evaluation_transform
from facekernels.systems.common.data_module import StepData

BY_FREQUENCY = ("Happy", "Neutral", "Sad", "Surprise", "Disgust", "Anger", "Fear")
"""RAF-DB's classes from the most to the least frequent: which made-up classes are the rare ones."""


class ExpressionData(StepData):
    """Training split as it is or made imbalanced; validation and test splits as they are.

    Args:
        dataset: faces (made up, balanced test split), or a reader's layout under `root`: rafdb,
            affectnet, ferplus.
        root: folder of the data set.
        image_size: side of the images, pixels.
        imbalance: size of the largest class over that of the smallest in the training split; the
            classes between fall geometrically. None keeps a real data set as it is, and gives
            made-up faces equal classes. A real data set is thinned out, never repeated.
        largest: images of the largest class of made-up faces.
        test_per_class: images per class of the made-up test split.
        settings: distribution of the made-up faces; its ambiguity says how far expressions lean
            towards a neighbouring class.
        augment: of made-up faces, batch by batch.
        sampler: shuffle, or inverse: drawn with replacement, odds 1 / class size (AffectNet).
        strict: stop at the first missing or damaged file.
        batch_size: images per step, over all processes.
        eval_batch_size: images per batch of an evaluation, in each process.
        workers: loader processes.
        seed: of made-up faces, order and augmentation.
    """

    def __init__(
        self,
        dataset: Literal["faces", "rafdb", "affectnet", "ferplus"] = "faces",
        root: str | None = None,
        image_size: int = 112,
        imbalance: float | None = None,
        largest: int = 400,
        test_per_class: int = 100,
        settings: faces.Settings | None = None,
        augment: BatchAugment | None = None,
        sampler: Literal["shuffle", "inverse"] = "shuffle",
        strict: bool = False,
        batch_size: int = 32,
        eval_batch_size: int = 256,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, workers, seed)
        if dataset != "faces" and root is None:
            raise ValueError(f"root must be the folder of {dataset}, got None")
        self.dataset, self.root, self.image_size = dataset, root, image_size
        self.imbalance, self.largest, self.test_per_class = imbalance, largest, test_per_class
        self.settings, self.augment = settings or faces.Settings(), augment or BatchAugment()
        self.sampler, self.strict = sampler, strict
        self.class_names: tuple[str, ...] = EXPRESSIONS
        self.train: Any = None
        self.val: Any = None
        self.test: Any = None

    def setup(self, stage: str) -> None:
        """Read or draw the splits; a second call does nothing."""
        if self.train is not None:
            return
        if self.dataset == "faces":
            self._draw()
        else:
            self._read()

    @property
    def class_counts(self) -> Tensor:
        """``[K]`` images per class of the training split."""
        return torch.bincount(self.train.labels["label"], minlength=len(self.class_names))

    def train_dataloader(self) -> DataLoader[Any]:
        weights = None
        if self.sampler == "inverse":
            weights = inverse_frequency_weights(self.train.labels["label"])
        return self.step_loader(self.train, weights)

    def val_dataloader(self) -> DataLoader[Any]:
        return self.eval_loader(self.val)

    def test_dataloader(self) -> DataLoader[Any]:
        return self.eval_loader(self.test)

    def _draw(self) -> None:
        """Made-up faces. Identities of the splits differ; so do their seeds."""
        sizes = imbalanced_counts(self.largest, len(EXPRESSIONS), self.imbalance or 1.0)
        counts = [sizes[BY_FREQUENCY.index(name)] for name in EXPRESSIONS]
        per_class = [self.test_per_class] * len(EXPRESSIONS)

        def split(counts: list[int], number: int, augment: Any) -> LabelledImages:
            labels = torch.cat([torch.full((n,), k) for k, n in enumerate(counts)])
            made = faces.make(len(labels), self.image_size, 3 * self.seed + number, self.settings,
                              expressions=labels, uint8=True)  # fmt: skip
            return LabelledImages(made.images, {"label": labels}, augment)

        self.train = split(counts, 0, self.augment)
        self.val = split(per_class, 1, None)
        self.test = split(per_class, 2, None)

    def _read(self) -> None:
        """A real data set; validation is its own split, or the test split where it has none."""
        readers: dict[str, tuple[Callable[..., ImageList], tuple[str, ...]]] = {
            "rafdb": (read_rafdb, ("train", "test")),
            "affectnet": (read_affectnet, ("train", "val")),
            "ferplus": (read_ferplus, ("train", "val", "test")),
        }
        read, splits = readers[self.dataset]
        train, *others = (read(self.root, split, strict=self.strict) for split in splits)
        self.class_names = train.classes
        if self.imbalance is not None:
            train = train.subset(_thinned(train, self.imbalance, self.seed))
        evaluation = evaluation_transform(self.image_size)
        self.train = ImageListDataset(train, analysis_transform(self.image_size))
        self.val = ImageListDataset(others[0], evaluation)
        self.test = ImageListDataset(others[-1], evaluation)


def _thinned(images: ImageList, factor: float, seed: int) -> Tensor:
    """Rows of the largest training split of this imbalance; classes keep their order of size."""
    counts = images.class_counts
    rank = counts.argsort(descending=True, stable=True).argsort()
    last = max(len(counts) - 1, 1)
    largest = int((counts * factor ** (rank / last)).min())
    sizes = torch.tensor(imbalanced_counts(largest, len(counts), factor))[rank]
    return subsample_to_counts(images.labels["label"], sizes.minimum(counts).tolist(), seed=seed)
