"""Ages: Adience, MORPH, IMDB and WIKI as SwinFace lists them, and ChaLearn's apparent ages."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from facekernels.data.image_list import ImageList
from facekernels.data.label_files import Samples, csv_rows, existing, lines
from facekernels.data.report import Report

OLDEST = 120.0
"""Ages lie in 0 to 120 years; others, of which IMDB and WIKI have some, are reported."""


def read_age_gender(root: str | Path, *, strict: bool = False) -> ImageList:
    """Faces with age and gender in SwinFace's layout: Adience, MORPH, IMDB, WIKI.

    ``label.txt``, a header and lines ``path age gender``, and the images in ``data``. Entries whose
    age or gender is ``nan`` are left out (`Report.left_out`).

    Args:
        root: folder of one data set.
        strict: raise at the first problem.

    Returns:
        ``labels["age"]``: ``[N]`` float32 years. ``labels["gender"]``: ``[N]`` int64, 0 female, 1
        male.

    Raises:
        FileNotFoundError: a file or folder is not there.
        ValueError: no usable image; with `strict`, a problem.

    Source: Qin et al., SwinFace, IEEE Transactions on Circuits and Systems for Video Technology
    2024 (the released code).
    """
    label_file = existing(root, ["label.txt"], "the labels")
    images = existing(root, ["data"], "the images")
    report = Report(strict)
    samples = Samples(report)
    entries = lines(label_file)
    next(entries, None)
    for where, text in entries:
        cells = text.split()
        numbers = [_number(cell) for cell in cells[1:]]
        if len(cells) != 3 or None in numbers:
            report.add("unreadable line", where, f"expected PATH AGE GENDER, got {text!r}")
            continue
        age, gender = (float(n) for n in numbers if n is not None)
        if math.isnan(age) or math.isnan(gender):
            report.left_out["age or gender is nan"] += 1
        elif not 0 <= age <= OLDEST:
            report.add("label out of range", where, f"expected an age of 0 to 120, got {cells[1]}")
        elif gender not in (0, 1):
            report.add("label out of range", where, f"expected gender 0 or 1, got {cells[2]}")
        else:
            samples.add(where, str(images / cells[0]), (age, int(gender)))
    files = samples.files(label_file)
    ages, genders = zip(*samples.values, strict=True)
    return ImageList(
        files, {"age": torch.tensor(ages), "gender": torch.tensor(genders)}, (), report
    )


def read_clap(root: str | Path, split: str = "train", *, strict: bool = False) -> ImageList:
    """Faces with the mean and standard deviation of guessed ages: ChaLearn LAP 2015 and 2016.

    The label file is ``train/label.csv``, ``train.csv``, ``train_gt.csv`` or, without splits,
    ``label.csv``; its columns are image, mean and standard deviation, separated by commas,
    semicolons or tabs, with or without a header. The images are in ``train/data``, ``train`` or
    ``data``.

    Args:
        root: folder of the data set.
        split: the word for "train" in those names.
        strict: raise at the first problem.

    Returns:
        ``labels["age"]`` and ``labels["std"]``: ``[N]`` float32, years.

    Raises:
        FileNotFoundError: a file or folder is not there.
        ValueError: no usable image; with `strict`, a problem.

    Source: Escalera et al., ChaLearn Looking at People 2015, ICCV workshops 2015; 2016, CVPR
    workshops 2016.
    """
    label_file = existing(
        root, [f"{split}/label.csv", f"{split}.csv", f"{split}_gt.csv", "label.csv"], "the labels"
    )
    images = existing(root, [f"{split}/data", split, "data"], "the images")
    report = Report(strict)
    samples = Samples(report)
    for number, (where, cells) in enumerate(csv_rows(label_file)):
        numbers = [_number(cell) for cell in cells[1:3]]
        if len(cells) < 3 or None in numbers:
            if number or len(cells) < 3:  # else it is the header
                report.add("unreadable line", where, f"expected IMAGE, MEAN, STD, got {cells}")
            continue
        mean, std = (float(n) for n in numbers if n is not None)
        if not 0 <= mean <= OLDEST:
            report.add("label out of range", where, f"expected an age of 0 to 120, got {cells[1]}")
        elif not 0 < std <= OLDEST:
            report.add("label out of range", where, f"expected a deviation above 0, got {cells[2]}")
        else:
            samples.add(where, str(images / cells[0]), (mean, std))
    files = samples.files(label_file)
    means, stds = zip(*samples.values, strict=True)
    return ImageList(files, {"age": torch.tensor(means), "std": torch.tensor(stds)}, (), report)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
