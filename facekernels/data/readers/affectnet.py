"""AffectNet in the forms it is found in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np

from facekernels.data.image_list import ImageList
from facekernels.data.label_files import Samples, columns, csv_rows, existing, lines
from facekernels.data.labels import EXPRESSIONS
from facekernels.data.readers.expression_names import (
    AFFECTNET_ORDER,
    EXPRESSIONS_AND_CONTEMPT,
    expression_list,
    read_class_folders,
)
from facekernels.data.report import Report

_WITHOUT_EXPRESSION = {8: "None", 9: "Uncertain", 10: "No-Face"}
_NUMBERS = {str(k): label for k, label in enumerate(AFFECTNET_ORDER)}


def read_affectnet(
    root: str | Path,
    split: Literal["train", "val"] = "train",
    *,
    contempt: bool = False,
    strict: bool = False,
) -> ImageList:
    """Faces of AffectNet with one of seven or eight expressions.

    Layouts, the first that is there:

    - ``train_set/images/0.jpg`` with ``train_set/annotations/0_exp.npy``, and ``val_set``
    - ``training.csv`` and ``validation.csv``, columns ``subDirectory_filePath`` and
      ``expression``, also in ``Manually_Annotated_file_lists``, with the images in
      ``Manually_Annotated_Images``
    - ``train/CLASS/*``, and ``val``, a class by its number or English name
    - SwinFace's ``label.txt``, a header and lines ``path ? label``, with the images in ``data``;
      its labels 0 to 6 are in the order of `labels.EXPRESSIONS`; only train

    Args:
        root: folder of the data set.
        split: train or val; the test split was never published.
        contempt: an eighth class; else its images are left out.
        strict: raise at the first problem.

    Returns:
        ``labels["label"]``: ``[N]`` in the order of `labels.EXPRESSIONS`, contempt last. Images of
        None, Uncertain and No-Face are left out (`Report.left_out`).

    Raises:
        FileNotFoundError: none of the layouts.
        ValueError: a split of another name; a missing column; no usable image; with `strict`, a
            problem.

    Source: Mollahosseini, Hasani, Mahoor, AffectNet, IEEE Transactions on Affective Computing 2019.
    """
    if split not in ("train", "val"):
        raise ValueError(f"split must be train or val, got {split!r}")
    report = Report(strict)
    samples = Samples(report)
    table = {"train": "training.csv", "val": "validation.csv"}[split]
    forms = [f"{split}_set", table, f"Manually_Annotated_file_lists/{table}", split]
    found = existing(root, forms + ["label.txt"] * (split == "train"), f"AffectNet's {split} split")
    if found.name == f"{split}_set":
        _read_set(found, samples)
    elif found.suffix == ".csv":
        images = existing(root, ["Manually_Annotated_Images", "."], "the images")
        _read_table(found, images, samples)
    elif found.is_dir():
        read_class_folders(found, _NUMBERS, samples)
    else:
        _read_text(found, Path(root) / "data", samples)
    classes = EXPRESSIONS_AND_CONTEMPT if contempt else EXPRESSIONS
    return expression_list(samples, found, classes, report)


def _read_set(folder: Path, samples: Samples) -> None:
    annotations = existing(folder, ["annotations"], "the labels")
    for file in sorted(os.listdir(annotations)):
        if not file.endswith("_exp.npy"):
            continue
        path = annotations / file
        try:
            number = str(np.load(path, allow_pickle=False).item())
        except (OSError, ValueError, EOFError) as error:
            samples.report.add("unreadable line", str(path), f"no number in it: {error}")
            continue
        image = folder / "images" / f"{file.removesuffix('_exp.npy')}.jpg"
        _add(samples, str(path), str(image), number)


def _read_table(path: Path, images: Path, samples: Samples) -> None:
    rows = csv_rows(path)
    _, header = next(rows, ("", []))
    file, expression = columns(header, ["subDirectory_filePath", "expression"], path)
    for where, cells in rows:
        if len(cells) != len(header):
            message = f"expected {len(header)} columns, got {len(cells)}"
            samples.report.add("unreadable line", where, message)
            continue
        _add(samples, where, str(images / cells[file]), cells[expression])


def _add(samples: Samples, where: str, image: str, number: str) -> None:
    """An entry with AffectNet's own number."""
    if not number.isdigit():
        samples.report.add("unreadable line", where, f"expected a number, got {number!r}")
    elif int(number) in _WITHOUT_EXPRESSION:
        samples.report.left_out[_WITHOUT_EXPRESSION[int(number)]] += 1
    elif number not in _NUMBERS:
        samples.report.add("label out of range", where, f"expected 0 to 10, got {number}")
    else:
        samples.add(where, image, _NUMBERS[number])


def _read_text(path: Path, images: Path, samples: Samples) -> None:
    entries = lines(path)
    next(entries, None)
    for where, text in entries:
        cells = text.split()
        if len(cells) != 3 or not cells[2].isdigit():
            samples.report.add("unreadable line", where, f"expected PATH ? LABEL, got {text!r}")
        elif int(cells[2]) >= len(EXPRESSIONS):
            samples.report.add("label out of range", where, f"expected 0 to 6, got {cells[2]}")
        else:
            samples.add(where, str(images / cells[0]), int(cells[2]))
