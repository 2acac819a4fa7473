"""CelebA: 40 attributes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from facekernels.data.image_list import ImageList
from facekernels.data.label_files import Samples, existing, lines
from facekernels.data.labels import CELEBA_ATTRIBUTES, CELEBA_COLUMNS
from facekernels.data.report import Report

_SPLITS = {"train": "0", "val": "1", "test": "2"}
_VALUES = {"1": 1, "-1": 0, "0": 0}


def read_celeba(
    root: str | Path,
    split: Literal["train", "val", "test"] = "train",
    *,
    strict: bool = False,
) -> ImageList:
    """Aligned faces of CelebA with 40 attributes.

    ``list_attr_celeba.txt`` (also in ``Anno``), ``list_eval_partition.txt`` (also in ``Eval``) and
    ``img_align_celeba`` (also in ``Img``).

    Args:
        root: folder of the data set.
        split: train (162,770 images), val (19,867) or test (19,962).
        strict: raise at the first problem.

    Returns:
        ``labels["attributes"]``: ``[N, 40]`` int8, 0 or 1, in the order of `labels.ATTRIBUTES`,
        which is SwinFace's and not the file's.

    Raises:
        FileNotFoundError: a file or folder is not there.
        ValueError: a split of another name; attributes of other names; no usable image; with
            `strict`, a problem.

    Source: Liu, Luo, Wang, Tang, Deep Learning Face Attributes in the Wild, ICCV 2015.
    """
    if split not in _SPLITS:
        raise ValueError(f"split must be one of {', '.join(_SPLITS)}, got {split!r}")
    attributes = _find(root, "Anno", "list_attr_celeba.txt")
    partition = _find(root, "Eval", "list_eval_partition.txt")
    images = _find(root, "Img", "img_align_celeba")
    report = Report(strict)
    samples = Samples(report)
    splits = _read_partition(partition, report)
    rows = lines(attributes)
    declared = _read_header(attributes, rows)
    count = 0
    for where, text in rows:
        count += 1
        name, *cells = text.split()
        if len(cells) != len(CELEBA_ATTRIBUTES):
            message = f"expected a name and 40 values, got {len(cells) + 1} words"
            report.add("unreadable line", where, message)
        elif name not in splits:
            report.add("unreadable line", where, f"{name} is not in {partition}")
        elif splits[name] == _SPLITS[split]:
            values = [_VALUES.get(cell) for cell in cells]
            if None in values:
                message = f"expected 1 or -1, got {cells[values.index(None)]}"
                report.add("label out of range", where, message)
            else:
                samples.add(where, str(images / name), values)
    if count != declared:
        report.add("unreadable line", f"{attributes}:1", f"says {declared} rows, there are {count}")
    files = samples.files(attributes)
    labels = torch.tensor(samples.values, dtype=torch.int8)[:, list(CELEBA_COLUMNS)]
    return ImageList(files, {"attributes": labels}, (), report)


def _find(root: str | Path, folder: str, name: str) -> Path:
    return existing(root, [name, f"{folder}/{name}"], name)


def _read_header(path: Path, rows) -> int:  # type: ignore[no-untyped-def]
    """The declared number of rows; the names must be those that are known."""
    _, count = next(rows, ("", ""))
    _, names = next(rows, ("", ""))
    if not count.isdigit() or tuple(names.split()) != CELEBA_ATTRIBUTES:
        raise ValueError(
            f"{path} must begin with the number of rows and the 40 names "
            f"{CELEBA_ATTRIBUTES[0]} to {CELEBA_ATTRIBUTES[-1]}, got {count[:60]!r} and "
            f"{names[:60]!r}"
        )
    return int(count)


def _read_partition(path: Path, report: Report) -> dict[str, str]:
    splits: dict[str, str] = {}
    for where, text in lines(path):
        cells = text.split()
        if len(cells) != 2:
            report.add("unreadable line", where, f"expected NAME SPLIT, got {text!r}")
        elif cells[1] not in _SPLITS.values():
            report.add("label out of range", where, f"expected 0, 1 or 2, got {cells[1]}")
        elif cells[0] in splits:
            report.add("duplicate entry", where, f"{cells[0]} has a split already")
        else:
            splits[cells[0]] = cells[1]
    return splits
