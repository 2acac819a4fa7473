"""Recognition sets as a folder of images per person."""

from __future__ import annotations

from pathlib import Path

from facekernels.data.image_folder import class_folder_files
from facekernels.data.image_list import ImageList
from facekernels.data.image_sources import ImageFiles
from facekernels.data.label_files import report_empty_classes, require_some
from facekernels.data.report import Report


def read_identities(root: str | Path, *, strict: bool = False) -> ImageList:
    """Images of ``root/person/*.jpg``, as MS1M, CASIA-WebFace and VGGFace2 are laid out.

    Args:
        root: the folder of the persons' folders.
        strict: raise at the first problem, which is a folder without an image.

    Returns:
        ``labels["label"]``: ``[N]`` persons in the order of their sorted folder names, which are
        `classes`.

    Raises:
        FileNotFoundError: no such folder, or no image in it.
        ValueError: with `strict`, a problem.
    """
    root = Path(root)
    files, labels, classes = class_folder_files(root)
    report = Report(strict)
    report_empty_classes(report, root, classes, labels.tolist())
    require_some(len(files), root, report)
    return ImageList(ImageFiles([str(file) for file in files]), {"label": labels}, classes, report)
