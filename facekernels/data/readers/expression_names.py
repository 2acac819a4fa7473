"""Expression classes as several data sets number and name them."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from facekernels.data.image_folder import IMAGE_SUFFIXES
from facekernels.data.image_list import ImageList
from facekernels.data.label_files import Samples, report_empty_classes
from facekernels.data.labels import EXPRESSIONS
from facekernels.data.report import Report

EXPRESSIONS_AND_CONTEMPT: tuple[str, ...] = (*EXPRESSIONS, "Contempt")

AFFECTNET_ORDER: tuple[int, ...] = tuple(
    EXPRESSIONS_AND_CONTEMPT.index(name)
    for name in ("Neutral", "Happy", "Sad", "Surprise", "Fear", "Disgust", "Anger", "Contempt")
)
"""AffectNet's 0 to 7 as positions in `EXPRESSIONS_AND_CONTEMPT`."""

FERPLUS_ORDER: tuple[int, ...] = tuple(
    EXPRESSIONS_AND_CONTEMPT.index(name)
    for name in ("Neutral", "Happy", "Surprise", "Sad", "Anger", "Disgust", "Fear", "Contempt")
)
"""FERPlus's first eight columns of votes as positions in `EXPRESSIONS_AND_CONTEMPT`."""

_OTHER_NAMES = {
    "surprised": "surprise", "fearful": "fear", "disgusted": "disgust", "happiness": "happy",
    "sadness": "sad", "angry": "anger",
}  # fmt: skip


def class_of_name(name: str) -> int | None:
    """Position in `EXPRESSIONS_AND_CONTEMPT` of an English name, or None."""
    lower = name.lower()
    names = [known.lower() for known in EXPRESSIONS_AND_CONTEMPT]
    lower = _OTHER_NAMES.get(lower, lower)
    return names.index(lower) if lower in names else None


def read_class_folders(folder: Path, numbers: dict[str, int], samples: Samples) -> None:
    """Add the images of ``folder/class/file``; a class is a key of `numbers` or an English name."""
    for name in sorted(os.listdir(folder)):
        inside = folder / name
        if not inside.is_dir():
            continue
        label = numbers.get(name, class_of_name(name))
        if label is None:
            samples.report.add("label out of range", str(inside), "the folder names no expression")
            continue
        for file in sorted(os.listdir(inside)):
            if Path(file).suffix.lower() in IMAGE_SUFFIXES:
                samples.add(str(inside), str(inside / file), label)


def expression_list(
    samples: Samples, origin: Path, classes: tuple[str, ...], report: Report
) -> ImageList:
    """The list of samples whose values are positions in `EXPRESSIONS_AND_CONTEMPT`.

    Contempt is left out where it is not in `classes`.
    """
    used = [i for i, label in enumerate(samples.values) if label < len(classes)]
    if len(used) < len(samples.values):
        report.left_out["Contempt"] += len(samples.values) - len(used)
    samples.paths = [samples.paths[i] for i in used]
    samples.values = [samples.values[i] for i in used]
    report_empty_classes(report, origin, classes, samples.values)
    labels = torch.tensor(samples.values, dtype=torch.int64)
    return ImageList(samples.files(origin), {"label": labels}, classes, report)
