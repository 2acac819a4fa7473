"""RAF-DB, the basic expressions."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from facekernels.data.image_list import ImageList
from facekernels.data.label_files import Samples, existing, integer, lines
from facekernels.data.labels import EXPRESSIONS
from facekernels.data.readers.expression_names import expression_list, read_class_folders
from facekernels.data.report import Report

_NUMBERS = {str(k + 1): k for k in range(len(EXPRESSIONS))}


def read_rafdb(
    root: str | Path, split: Literal["train", "test"] = "train", *, strict: bool = False
) -> ImageList:
    """Aligned faces of RAF-DB with one of seven expressions.

    Layouts, the first that is there (`root` may also be the folder above ``basic``):

    - ``EmoLabel/list_patition_label.txt`` or ``list_patition_label.txt``, lines
      ``train_00001.jpg 5``, and ``Image/aligned/train_00001_aligned.jpg`` or
      ``Image/aligned/train_00001.jpg``
    - ``train/1/*.jpg`` to ``train/7/*.jpg``, and the same under ``test``

    Args:
        root: folder of the data set.
        split: train (12,271 images) or test (3,068).
        strict: raise at the first problem.

    Returns:
        ``labels["label"]``: ``[N]`` in the order of `labels.EXPRESSIONS`, 0 where the file says 1.

    Raises:
        FileNotFoundError: none of the layouts.
        ValueError: a split of another name; no usable image; with `strict`, a problem.

    Source: Li, Deng, Du, Reliable Crowdsourcing and Deep Locality-Preserving Learning for
    Expression Recognition in the Wild, CVPR 2017.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be train or test, got {split!r}")
    base = existing(root, ["basic", "."], "RAF-DB")
    report = Report(strict)
    samples = Samples(report)
    label_file = existing(
        base, ["EmoLabel/list_patition_label.txt", "list_patition_label.txt", split], "the labels"
    )
    if label_file.is_dir():
        read_class_folders(label_file, _NUMBERS, samples)
    else:
        images = existing(base, ["Image/aligned", "aligned"], "the images")
        _read_labels(label_file, images, split, samples)
    return expression_list(samples, label_file, EXPRESSIONS, report)


def _read_labels(path: Path, images: Path, split: str, samples: Samples) -> None:
    for where, text in lines(path):
        cells = text.split()
        if len(cells) != 2 or not text.startswith(("train_", "test_")) or not cells[1].isdigit():
            samples.report.add("unreadable line", where, f"expected NAME LABEL, got {text!r}")
            continue
        name, number = cells
        if not name.startswith(f"{split}_"):
            continue
        label = integer(number, 1, len(EXPRESSIONS))
        if label is None:
            samples.report.add("label out of range", where, f"expected 1 to 7, got {number}")
            continue
        aligned = str(images / f"{Path(name).stem}_aligned.jpg")
        samples.add(where, aligned if samples.there(aligned) else str(images / name), label - 1)
