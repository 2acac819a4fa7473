"""What the readers of label files share."""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from facekernels.data.image_sources import ImageFiles
from facekernels.data.report import Report, printable


def existing(root: str | Path, candidates: Sequence[str], what: str) -> Path:
    """The first of these paths below `root` that is there.

    Raises:
        FileNotFoundError: none is; the message lists them.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder")
    for name in candidates:
        if (folder / name).exists():
            return folder / name
    raise FileNotFoundError(f"{folder} must hold {what}: none of {', '.join(candidates)} is there")


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """Each line that is not blank, with its place ``file:number``; line ends of any system.

    Bytes that are not UTF-8 come as Python gives them in file names, so that they name the file.
    """
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            text = os.fsdecode(raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw).strip()
            if text:
                yield f"{path}:{number}", text


def csv_rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Each row of a file separated by commas, semicolons or tabs, with its place.

    The separator is the one of the three that the first row has most of.
    """
    separator = ""
    for where, text in lines(path):
        separator = separator or max(",;\t", key=text.count)
        yield where, [cell.strip() for cell in next(csv.reader([text], delimiter=separator))]


def columns(header: Sequence[str], names: Sequence[str], path: Path) -> list[int]:
    """Positions of these columns.

    Raises:
        ValueError: one is not there.
    """
    lower = [cell.lower() for cell in header]
    missing = [name for name in names if name.lower() not in lower]
    if missing:
        raise ValueError(
            f"{path} must have the columns {', '.join(names)}, got {', '.join(header)}"
        )
    return [lower.index(name.lower()) for name in names]


class Samples:
    """Collects the entries of a label file whose image is there and was not named before."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.paths: list[str] = []
        self.values: list[Any] = []
        self._seen: dict[str, str] = {}
        self._folders: dict[str, frozenset[str]] = {}

    def add(self, where: str, path: str, value: Any) -> None:
        """Note an image and its labels, which stand at `where`."""
        path = os.path.normpath(path)
        if path in self._seen:
            self.report.add("duplicate entry", where, f"{path} is in {self._seen[path]} already")
            return
        self._seen[path] = where
        if not self.there(path):
            self.report.add("missing file", where, f"{path} does not exist")
            return
        self.paths.append(path)
        self.values.append(value)

    def there(self, path: str) -> bool:
        """Whether the file exists. Every folder is listed once, which is faster than asking."""
        folder, name = os.path.split(path)
        if folder not in self._folders:
            try:
                self._folders[folder] = frozenset(os.listdir(folder))
            except (OSError, ValueError):
                self._folders[folder] = frozenset()
        return name in self._folders[folder]

    def files(self, origin: Path) -> ImageFiles:
        """The images.

        Raises:
            ValueError: `origin` gave none.
        """
        require_some(len(self.paths), origin, self.report)
        return ImageFiles(self.paths)


def require_some(count: int, origin: Path, report: Report) -> None:
    """Raise ValueError if `origin` gave no sample; else warn if the report has problems."""
    if not count:
        raise ValueError(printable(f"{origin} gives no usable image: {report.summary()}"))
    if not report.ok:
        text = f"{origin}: {count} usable images; {report.summary()}"
        warnings.warn(printable(text), DataSetWarning, stacklevel=4)


class DataSetWarning(UserWarning):
    """Entries of a data set are left out; the message counts them, the list's report tells all."""


def integer(text: str, low: int, high: int) -> int | None:
    """The number, or None if it is outside ``low .. high``.

    Raises:
        ValueError: no integer.
    """
    value = int(text)
    return value if low <= value <= high else None


def report_empty_classes(
    report: Report, origin: Path, classes: Sequence[str], labels: Sequence[int]
) -> None:
    """Report every class that no label names."""
    found = set(labels)
    for k, name in enumerate(classes):
        if k not in found:
            report.add("empty class", str(origin), f"no image of {name}")
