"""Recognition sets of InsightFace: train.rec, train.idx, property."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facekernels.data.image_list import ImageList
from facekernels.data.image_sources import UnreadableImage, decode
from facekernels.data.label_files import existing, lines, report_empty_classes, require_some
from facekernels.data.record_file import DamagedRecord, RecordFile
from facekernels.data.report import Report


class RecordImages:
    """Images of a record file.

    Args:
        file: the records.
        keys: ``[N]`` of the images, for messages.
        offsets: ``[N]`` of their records.
    """

    def __init__(
        self, file: RecordFile, keys: NDArray[np.int64], offsets: NDArray[np.int64]
    ) -> None:
        self.file, self.keys, self.offsets = file, keys, offsets

    def __len__(self) -> int:
        return len(self.keys)

    def name(self, row: int) -> str:
        return f"{self.file.path}: record {self.keys[row]}"

    def read(self, row: int) -> Tensor:
        try:
            _, encoded = self.file.image(int(self.offsets[row]))
        except DamagedRecord as error:
            raise UnreadableImage(str(error)) from error
        return decode(io.BytesIO(encoded), self.name(row))

    def subset(self, rows: Sequence[int]) -> RecordImages:
        chosen = list(rows)
        return RecordImages(self.file, self.keys[chosen], self.offsets[chosen])


def read_recordio(root: str | Path, *, strict: bool = False) -> ImageList:
    """Images of ``train.rec`` with ``train.idx`` and ``property``; MXNet is not needed.

    The format of MS1M, Glint360K and CASIA-WebFace as InsightFace distributes them: record 0 tells
    where the images end, ``property`` the number of persons. Without the former, all records are
    images. The images are read from the file when they are needed.

    Args:
        root: folder of the three files.
        strict: raise at the first problem.

    Returns:
        ``labels["label"]``: ``[N]`` int64 persons, in the order of the records.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a malformed ``property`` or record 0; no usable image; with `strict`, a problem.
    """
    path = existing(root, ["train.rec"], "the records")
    index = existing(root, ["train.idx"], "the records' offsets")
    persons = _persons(existing(root, ["property"], "the number of persons"))
    report = Report(strict)
    file = RecordFile(path)
    keys, offsets = _read_index(index, report)
    keys, offsets = _image_records(file, keys, offsets)
    labels = file.first_labels(offsets)
    for row in np.flatnonzero(np.isnan(labels)):
        where = f"{path}: record {keys[row]}"
        report.add("unreadable image", where, f"no sound record at byte {offsets[row]}")
    whole = np.isnan(labels) | ((labels >= 0) & (labels < persons) & (labels % 1 == 0))
    for row in np.flatnonzero(~whole):
        where = f"{path}: record {keys[row]}"
        report.add("label out of range", where, f"expected 0 to {persons - 1}, got {labels[row]}")
    used = whole & ~np.isnan(labels)
    images = RecordImages(file, keys[used], offsets[used])
    label = torch.from_numpy(labels[used].astype(np.int64))
    classes = tuple(map(str, range(persons)))
    report_empty_classes(report, path, classes, label.tolist())
    require_some(len(images), path, report)
    return ImageList(images, {"label": label}, classes, report)


def _persons(path: Path) -> int:
    text = path.read_text(errors="replace").strip()
    cells = text.split(",")
    if len(cells) != 3 or not all(cell.strip().isdigit() for cell in cells):
        raise ValueError(f"{path} must hold PERSONS,HEIGHT,WIDTH, got {text[:60]!r}")
    return int(cells[0])


def _read_index(path: Path, report: Report) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Keys and offsets, each key once."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of an empty file
            table = np.loadtxt(path, np.int64, comments=None, ndmin=2, encoding="utf-8-sig")
    except ValueError:
        table = np.empty((0, 0), np.int64)
    if table.shape[1] != 2:
        table = _read_index_lines(path, report)
    _, first = np.unique(table[:, 0], return_index=True)
    kept = np.zeros(len(table), bool)
    kept[first] = True
    for key in table[~kept, 0]:
        report.add("duplicate entry", str(path), f"key {key} has an offset already")
    table = table[kept]
    if not len(table):
        raise ValueError(f"{path} lists no record: {report.summary()}")
    return table[:, 0], table[:, 1]


def _read_index_lines(path: Path, report: Report) -> NDArray[np.int64]:
    """The same, slower, with the place of what is wrong."""
    rows = []
    for where, text in lines(path):
        cells = text.split()
        if len(cells) != 2 or not all(cell.isdigit() for cell in cells):
            report.add("unreadable line", where, f"expected KEY OFFSET, got {text!r}")
        else:
            rows.append([int(cell) for cell in cells])
    return np.array(rows, np.int64).reshape(-1, 2)


def _image_records(
    file: RecordFile, keys: NDArray[np.int64], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Leave out record 0 and those after the images, which describe the persons."""
    zero = np.flatnonzero(keys == 0)
    if len(zero):
        labels, encoded = file.image(int(offsets[zero[0]]))
        if not encoded or len(labels) > 1:
            used = (keys > 0) & (keys < int(labels[0]))
            return keys[used], offsets[used]
    return keys, offsets
