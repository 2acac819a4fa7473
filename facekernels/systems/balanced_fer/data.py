"""Expression data: RAF-DB, AffectNet, FERPlus, and made-up faces; digits beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
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
from facekernels.data.embedded import digits
from facekernels.data.labelled import LabelledImages
from facekernels.data.labels import EXPRESSIONS
from facekernels.data.readers import read_affectnet, read_ferplus, read_rafdb
from facekernels.data.transforms import (
    analysis_transform,
    erasing_transform,
    evaluation_transform,
)
from facekernels.systems.common.data_module import StepData

BY_FREQUENCY = ("Happy", "Neutral", "Sad", "Surprise", "Disgust", "Anger", "Fear")
"""RAF-DB's classes from the most to the least frequent: which made-up classes are the rare ones."""


class ExpressionData(StepData):
    """Training split as it is or made imbalanced; validation and test splits as they are.

    Args:
        dataset: faces (made up, balanced test split), digits (scikit-learn's: ten classes of real
            images that a mirror does not leave what they are), or a reader's layout under `root`:
            rafdb, affectnet, ferplus.
        root: folder of the data set.
        image_size: side of the images, pixels.
        imbalance: size of the largest class over that of the smallest in the training split; the
            classes between fall geometrically. None keeps a real data set as it is, and gives
            made-up faces equal classes. A real data set is thinned out, never repeated.
        largest: images of the largest class of made-up faces.
        test_per_class: images per class of the test split of made-up faces and digits.
        settings: distribution of the made-up faces; its ambiguity says how far expressions lean
            towards a neighbouring class.
        augment: of made-up faces and digits, batch by batch.
        augmentation: of a real data set: timm (of SwinFace and MEK's Swin-T), or erase (of EAC and
            MEK's ResNets).
        contempt: the eighth class of affectnet and ferplus; else its images are left out.
        sampler: shuffle, or inverse: drawn with replacement, odds 1 / class size (AffectNet).
        strict: stop at the first missing or damaged file.
        batch_size: images per step, over all processes.
        eval_batch_size: images per batch of an evaluation, in each process.
        workers: loader processes.
        seed: of made-up faces, order and augmentation.
    """

    def __init__(
        self,
        dataset: Literal["faces", "digits", "rafdb", "affectnet", "ferplus"] = "faces",
        root: str | None = None,
        image_size: int = 112,
        imbalance: float | None = None,
        largest: int = 400,
        test_per_class: int = 100,
        settings: faces.Settings | None = None,
        augment: BatchAugment | None = None,
        augmentation: Literal["timm", "erase"] = "timm",
        contempt: bool = False,
        sampler: Literal["shuffle", "inverse"] = "shuffle",
        strict: bool = False,
        batch_size: int = 32,
        eval_batch_size: int = 256,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, workers, seed)
        if dataset not in ("faces", "digits") and root is None:
            raise ValueError(f"root must be the folder of {dataset}, got None")
        if contempt and dataset not in ("affectnet", "ferplus"):
            raise ValueError(f"contempt is a class of affectnet and ferplus, got {dataset}")
        self.dataset, self.root, self.image_size = dataset, root, image_size
        self.imbalance, self.largest, self.test_per_class = imbalance, largest, test_per_class
        self.settings, self.augment = settings or faces.Settings(), augment or BatchAugment()
        self.augmentation, self.contempt = augmentation, contempt
        self.sampler, self.strict = sampler, strict
        self.class_names: tuple[str, ...] = EXPRESSIONS
        self.train: Any = None
        self.val: Any = None
        self.test: Any = None

    def setup(self, stage: str) -> None:
        """Read or draw the splits; a second call does nothing."""
        if self.train is not None:
            return
        {"faces": self._draw, "digits": self._digits}.get(self.dataset, self._read)()

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

    def _digits(self) -> None:
        """Digits, enlarged. Validation and test images are the last of each class in an order that
        the seed draws.
        """
        images, labels = digits()
        self.class_names = tuple(map(str, range(10)))
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(self.seed))
        images, labels = images[order], labels[order]
        large = F.interpolate(images.float(), size=self.image_size, mode="bilinear")
        images = large.round().to(torch.uint8).expand(-1, 3, -1, -1)
        rows = [(labels == k).nonzero()[:, 0] for k in range(10)]
        held = self.test_per_class
        if 2 * held >= min(map(len, rows)):
            raise ValueError(
                f"test_per_class must leave digits for training: at most "
                f"{(min(map(len, rows)) - 1) // 2}, got {held}"
            )
        left = [len(r) - 2 * held for r in rows]
        sizes = imbalanced_counts(min(left), 10, self.imbalance) if self.imbalance else left
        parts = {
            "train": torch.cat([r[:n] for r, n in zip(rows, sizes, strict=True)]),
            "val": torch.cat([r[-2 * held : -held] for r in rows]),
            "test": torch.cat([r[-held:] for r in rows]),
        }
        for name, part in parts.items():
            augment = self.augment if name == "train" else None
            setattr(self, name, LabelledImages(images[part], {"label": labels[part]}, augment))

    def _read(self) -> None:
        """A real data set; validation is its own split, or the test split where it has none."""
        readers: dict[str, tuple[Callable[..., ImageList], tuple[str, ...]]] = {
            "rafdb": (read_rafdb, ("train", "test")),
            "affectnet": (read_affectnet, ("train", "val")),
            "ferplus": (read_ferplus, ("train", "val", "test")),
        }
        read, splits = readers[self.dataset]
        options = {"contempt": True} if self.contempt else {}
        train, *others = (read(self.root, split, strict=self.strict, **options) for split in splits)
        self.class_names = train.classes
        if self.imbalance is not None:
            train = train.subset(_thinned(train, self.imbalance, self.seed))
        evaluation = evaluation_transform(self.image_size)
        augment = {"timm": analysis_transform, "erase": erasing_transform}[self.augmentation]
        self.train = ImageListDataset(train, augment(self.image_size))
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
