"""FERPlus: the images of FER2013 with ten votes each."""

from __future__ import annotations

import csv
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from facekernels.data.image_list import ImageList
from facekernels.data.image_sources import PixelImages
from facekernels.data.label_files import (
    Samples,
    columns,
    csv_rows,
    existing,
    report_empty_classes,
    require_some,
)
from facekernels.data.labels import EXPRESSIONS
from facekernels.data.readers.expression_names import (
    EXPRESSIONS_AND_CONTEMPT,
    FERPLUS_ORDER,
    expression_list,
)
from facekernels.data.report import Report

_VOTES = (
    "neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt",
    "unknown", "NF",
)  # fmt: skip
_SPLITS = {
    "train": ("Training", "FER2013Train"),
    "val": ("PublicTest", "FER2013Valid"),
    "test": ("PrivateTest", "FER2013Test"),
}
_SIDE = 48


def read_ferplus(
    root: str | Path,
    split: Literal["train", "val", "test"] = "train",
    *,
    contempt: bool = False,
    strict: bool = False,
) -> ImageList:
    """48 x 48 grey faces of FERPlus with the expression that most annotators named.

    ``fer2013new.csv`` with its ten columns of votes, and the images: ``fer2013.csv`` (a column
    ``pixels``, the same rows), or ``FER2013Train/fer0000000.png``, ``FER2013Valid`` and
    ``FER2013Test``, also in a folder ``images`` or ``data``.

    The vote is FERPlus's "majority": single votes are dropped, and the first must have more than
    half of the others together, those for "unknown" and "no face" included.

    Args:
        root: folder of the data set.
        split: train, val (FER2013's PublicTest) or test (PrivateTest).
        contempt: an eighth class; else its images are left out.
        strict: raise at the first problem.

    Returns:
        ``labels["label"]``: ``[N]`` in the order of `labels.EXPRESSIONS`, contempt last. Images
        without a majority, or with one for unknown or no face, are left out (`Report.left_out`).

    Raises:
        FileNotFoundError: a file or folder is not there.
        ValueError: a split of another name; a missing column; no usable image; with `strict`, a
            problem.

    Source: Barsoum et al., Training Deep Networks for Facial Expression Recognition with
    Crowd-Sourced Label Distribution, ICMI 2016.
    """
    if split not in _SPLITS:
        raise ValueError(f"split must be one of {', '.join(_SPLITS)}, got {split!r}")
    usage, folder = _SPLITS[split]
    table = existing(root, ["fer2013new.csv"], "the votes")
    places = [f"{above}{folder}" for above in ("", "images/", "data/")]
    images = existing(root, ["fer2013.csv", *places], "the images")
    report = Report(strict)
    classes = EXPRESSIONS_AND_CONTEMPT if contempt else EXPRESSIONS
    entries = _entries(table, usage, report)
    if images.is_dir():
        samples = Samples(report)
        for where, _, name, label in entries:
            samples.add(where, str(images / name), label)
        return expression_list(samples, table, classes, report)
    return _from_pixels(images, table, usage, entries, classes, report)


def majority(votes: Sequence[int]) -> int | None:
    """Column that has the majority of FERPlus's votes, or None."""
    counted = [n if n > 1 else 0 for n in votes]
    best = max(counted)
    return counted.index(best) if best > sum(counted) / 2 else None


def _entries(table: Path, usage: str, report: Report) -> Iterator[tuple[str, int, str, int]]:
    """Place, row, image name and class of the split's images that have a class."""
    rows = csv_rows(table)
    _, header = next(rows, ("", []))
    use, name, *votes = columns(header, ["Usage", "Image name", *_VOTES], table)
    for row, (where, cells) in enumerate(rows):
        if len(cells) != len(header):
            message = f"expected {len(header)} columns, got {len(cells)}"
            report.add("unreadable line", where, message)
            continue
        if cells[use] != usage:
            continue
        given = [cells[i] for i in votes]
        if not all(vote.isdigit() for vote in given):
            message = f"expected ten numbers of votes, got {', '.join(given)}"
            report.add("unreadable line", where, message)
            continue
        column = majority([int(vote) for vote in given])
        if column is None:
            report.left_out["no majority"] += 1
        elif column >= len(FERPLUS_ORDER):
            report.left_out["majority for unknown or no face"] += 1
        else:
            yield where, row, cells[name], FERPLUS_ORDER[column]


def _from_pixels(
    path: Path,
    table: Path,
    usage: str,
    entries: Iterator[tuple[str, int, str, int]],
    classes: tuple[str, ...],
    report: Report,
) -> ImageList:
    wanted = {row: (where, label) for where, row, _, label in entries}
    images, names, labels = [], [], []
    for row, found, text in _pixel_rows(path):
        if row not in wanted:
            continue
        where, label = wanted.pop(row)
        name = f"{path}:{row + 2}"
        if label >= len(classes):
            report.left_out[EXPRESSIONS_AND_CONTEMPT[label]] += 1
            continue
        pixels = _pixels(text)
        if found != usage:
            report.add("unreadable line", name, f"usage {found!r} differs from {where}: {usage!r}")
        elif pixels is None:
            expected = f"expected {_SIDE * _SIDE} pixels in 0 to 255"
            report.add("unreadable image", name, f"{expected}, got {len(text.split())} words")
        else:
            images.append(pixels)
            names.append(name)
            labels.append(label)
    for where, _ in wanted.values():
        report.add("missing file", where, f"{path} has no row for it")
    report_empty_classes(report, table, classes, labels)
    require_some(len(labels), table, report)
    source = PixelImages(np.stack(images), names)
    return ImageList(source, {"label": torch.tensor(labels)}, classes, report)


def _pixel_rows(path: Path) -> Iterator[tuple[int, str, str]]:
    """Row, usage and pixels of each line after the header; a short line has no pixels."""
    csv.field_size_limit(sys.maxsize)
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = csv.reader(file)
        header = [cell.strip() for cell in next(rows, [])]
        usage, pixels = columns(header, ["Usage", "pixels"], path)
        for row, cells in enumerate(rows):
            whole = len(cells) == len(header)
            yield row, cells[usage].strip() if whole else "", cells[pixels] if whole else ""


def _pixels(text: str) -> NDArray[np.uint8] | None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # older NumPy only warns of text that is no number
        try:
            values = np.fromstring(text, dtype=np.int64, sep=" ")
        except (ValueError, DeprecationWarning):
            return None
    if len(values) != _SIDE * _SIDE or values.min() < 0 or values.max() > 255:
        return None
    return values.astype(np.uint8).reshape(_SIDE, _SIDE)
