"""The published sources and evaluation sets, from their folders."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from facekernels.data import ImageList, ImageListDataset, RepeatToLength
from facekernels.data.image_sources import ImageFiles
from facekernels.data.readers import (
    read_affectnet,
    read_age_gender,
    read_celeba,
    read_clap,
    read_identities,
    read_rafdb,
    read_recordio,
    read_verification_bin,
)
from facekernels.data.transforms import (
    Compose,
    HorizontalFlip,
    Normalise,
    Resize,
    analysis_transform,
    evaluation_transform,
)
from facekernels.systems.swinface.ijbc import TemplateFaces
from facekernels.systems.swinface.targets import full_labels

Images = Dataset[dict[str, Tensor]]

SHARES = {
    "age_gender": {"adience": 0.25, "morph": 0.25, "imdb+wiki": 0.5},
    "attributes": {"celeba": 1.0},
    "expression": {"affectnet": 0.5, "rafdb": 0.5},
}
"""Published parts of each source."""

_KEPT = {"attributes": 0.5}
"""Probability that a pass over a source uses an image."""


def recognition(root: str, strict: bool) -> ImageList:
    """Faces of persons, from folders or a RecordIO set."""
    reader = read_recordio if (Path(root) / "train.rec").is_file() else read_identities
    return reader(root, strict=strict)


def recognition_images(people: ImageList, size: int) -> Images:
    """They are mirrored at random, and not changed otherwise."""
    transform = Compose([Resize(size, crop=True), HorizontalFlip(), Normalise()])
    return _dataset(people, transform, identity=people.labels["label"])


def source(
    name: str, roots: Mapping[str, str], length: int | None, size: int, strict: bool, seed: int
) -> Images:
    """One analysis source: its data sets, repeated to `length` in the published shares.

    Data sets that are not given leave their share to the others. Without a length, every image is
    used, and the length is the shortest for that.

    Raises:
        ValueError: none of its data sets is given.
    """
    parts = {}
    for part in SHARES[name]:
        lists = [_training_list(s, roots[s], strict) for s in part.split("+") if s in roots]
        if lists:
            parts[part] = _joined(lists)
    if not parts:
        wanted = ", ".join(SHARES[name]).replace("+", ", ")
        raise ValueError(f"roots must give a folder for {name}, one of {wanted}")
    total = sum(SHARES[name][part] for part in parts)
    shares = [SHARES[name][part] / total for part in parts]
    transform = analysis_transform(size)
    images = [_dataset(found, transform, **_given(name, found)) for found in parts.values()]
    keep = _KEPT.get(name, 1.0)
    if length is None:
        keep = 1.0
        length = max(math.ceil(len(i) / share) for i, share in zip(images, shares, strict=True))
    return RepeatToLength(images, shares, length, keep=keep, seed=seed)


def verification(bins: Mapping[str, str], size: int) -> dict[str, Images]:
    """Pairs of every ``.bin`` file, by its name."""
    transform = evaluation_transform(size)
    return {name: PairImages(read_verification_bin(path), transform) for name, path in bins.items()}


def evaluation(roots: Mapping[str, str], split: str, size: int, strict: bool) -> dict[str, Images]:
    """The evaluation sets of `split` by name: CelebA, RAF-DB's test split, CLAP, and to test IJB-C.

    Args:
        roots: folders by name.
        split: val or test.
        size: side of the images, pixels.
        strict: stop at the first missing or damaged file.
    """
    transform = evaluation_transform(size)
    found: dict[str, Images] = {}
    if "celeba" in roots:
        celeba = read_celeba(roots["celeba"], "val" if split == "val" else "test", strict=strict)
        found["celeba"] = _dataset(celeba, transform, attributes=celeba.labels["attributes"])
    if "rafdb" in roots:
        rafdb = read_rafdb(roots["rafdb"], "test", strict=strict)
        found["rafdb"] = _dataset(rafdb, transform, expression=rafdb.labels["label"])
    if "clap" in roots:
        clap = read_clap(roots["clap"], split, strict=strict)
        labels = full_labels(len(clap), age=clap.labels["age"])
        labels["age_std"] = clap.labels["std"]
        found["clap"] = ImageListDataset(ImageList(clap.images, labels), transform)
    if "ijbc" in roots and split == "test":
        found["ijbc"] = TemplateFaces(roots["ijbc"], size)
    return found


class PairImages(Dataset[dict[str, Tensor]]):
    """Pairs of a verification set: ``"image"`` ``[6, S, S]``, two images, and ``"same"``."""

    def __init__(self, pairs: ImageList, transform: Compose) -> None:
        self.images, self.transform = pairs.images, transform
        self.same = pairs.labels["same"][::2]

    def __len__(self) -> int:
        return len(self.same)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        both = [self.transform(self.images.read(2 * index + i)) for i in range(2)]
        return {"image": torch.cat(both), "same": self.same[index]}


def _training_list(name: str, root: str, strict: bool) -> ImageList:
    if name in ("adience", "morph", "imdb", "wiki"):
        return read_age_gender(root, strict=strict)
    readers: dict[str, Any] = {
        "celeba": read_celeba, "affectnet": read_affectnet, "rafdb": read_rafdb,
    }  # fmt: skip
    found: ImageList = readers[name](root, "train", strict=strict)
    return found


def _joined(lists: Sequence[ImageList]) -> ImageList:
    """IMDB and WIKI are one list."""
    if len(lists) == 1:
        return lists[0]
    paths: list[str] = []
    for part in lists:
        assert isinstance(part.images, ImageFiles)
        paths += part.images.paths
    labels = {k: torch.cat([part.labels[k] for part in lists]) for k in lists[0].labels}
    return ImageList(ImageFiles(paths), labels)


def _given(name: str, images: ImageList) -> dict[str, Tensor]:
    """Labels that a source's data sets have, under `full_labels`' names."""
    labels = images.labels
    if name == "expression":
        return {"expression": labels["label"]}
    return {key: labels[key] for key in ("age", "gender", "attributes") if key in labels}


def _dataset(images: ImageList, transform: Compose, **labels: Tensor) -> ImageListDataset:
    whole = full_labels(len(images), **labels)
    return ImageListDataset(ImageList(images.images, whole), transform)
