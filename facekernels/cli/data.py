"""`facekernels data check NAME PATH`: what a data set holds and what is wrong with it."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from facekernels.data import readers
from facekernels.data.image_list import ImageList, check_images
from facekernels.data.label_files import DataSetWarning
from facekernels.data.labels import ATTRIBUTES
from facekernels.data.report import KINDS, Report, printable

_MOST_CLASSES = 20
_SHOWN = 5

Reader = Callable[[Path, str, bool], ImageList]
"""Takes the path, the split and whether to be strict."""


class Layout(NamedTuple):
    """How to read a data set."""

    read: Reader
    splits: tuple[str, ...] = ("all",)


def _age_gender(path: Path, split: str, strict: bool) -> ImageList:
    return readers.read_age_gender(path, strict=strict)


def _split_reader(function: Callable[..., ImageList]) -> Reader:
    return lambda path, split, strict: function(path, split, strict=strict)


LAYOUTS: dict[str, Layout] = {
    "rafdb": Layout(_split_reader(readers.read_rafdb), ("train", "test")),
    "affectnet": Layout(_split_reader(readers.read_affectnet), ("train", "val")),
    "ferplus": Layout(_split_reader(readers.read_ferplus), ("train", "val", "test")),
    "celeba": Layout(_split_reader(readers.read_celeba), ("train", "val", "test")),
    **{name: Layout(_age_gender) for name in ("adience", "morph", "imdb", "wiki")},
    "clap": Layout(_split_reader(readers.read_clap), ("train", "val", "test")),
    "identities": Layout(lambda path, _, strict: readers.read_identities(path, strict=strict)),
    "recordio": Layout(lambda path, _, strict: readers.read_recordio(path, strict=strict)),
    "verification-bin": Layout(lambda path, _, __: readers.read_verification_bin(path)),
}
"""Data sets by the name that the command takes."""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = argparse.ArgumentParser("facekernels data", description="Look at data sets.")
    commands = p.add_subparsers(dest="command", required=True)
    check = commands.add_parser(
        "check",
        description="Count the images of every split and class, and list missing and damaged ones. "
        "The exit code is 0 if there are none, else 1.",
    )
    check.add_argument("name", choices=tuple(LAYOUTS), metavar="NAME", help=", ".join(LAYOUTS))
    check.add_argument("path", type=Path, help="folder of the data set, or the .bin file")
    check.add_argument("--strict", action="store_true", help="stop at the first problem")
    check.add_argument(
        "--images",
        type=_number_or_all,
        default=100,
        metavar="N|all",
        help="images of each split that are decoded, evenly spaced (default: 100)",
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 0, or 1 if something is wrong."""
    arguments = parser().parse_args(argv)
    layout = LAYOUTS[arguments.name]
    sound, absent = True, []
    for split in layout.splits:
        try:
            sound &= _check(layout.read, split, arguments)
        except FileNotFoundError as error:
            absent.append(f"{split}: {error}")
        except (OSError, ValueError) as error:
            print(f"{split}: {printable(str(error))}", file=sys.stderr)
            sound = False
            if arguments.strict:
                break
    everything = len(absent) == len(layout.splits)
    for line in absent:
        print(printable(line), file=sys.stderr if everything else sys.stdout)
    return 0 if sound and not everything else 1


def _check(read: Reader, split: str, arguments: argparse.Namespace) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataSetWarning)  # the report below tells it
        found = read(arguments.path, split, arguments.strict)
    checked = len(found) if arguments.images is None else min(arguments.images, len(found))
    check_images(found.images, found.report, arguments.images)
    print(f"{split}: {len(found)} images, {checked} of them decoded")
    for name, text in _rows(found):
        print(f"  {name:<24}{text}")
    _print_report(found.report)
    return found.report.ok


def _rows(found: ImageList) -> list[tuple[str, str]]:
    """What the labels are, as lines of a table."""
    rows: list[tuple[str, str]] = []
    labels = found.labels
    if "label" in labels:
        counts = found.class_counts
        if len(found.classes) <= _MOST_CLASSES:
            named = zip(found.classes, counts.tolist(), strict=True)
            rows += [(printable(name), str(n)) for name, n in named]
        else:
            few, middle, many = int(counts.min()), int(counts.median()), int(counts.max())
            rows.append(("classes", str(len(found.classes))))
            rows.append(("images per class", f"{few} to {many}, median {middle}"))
    if "age" in labels:
        age = labels["age"]
        rows.append(("age", f"{age.min():.0f} to {age.max():.0f}, mean {age.mean():.1f}"))
    if "gender" in labels:
        male = int(labels["gender"].sum())
        rows += [("female", str(len(found) - male)), ("male", str(male))]
    if "attributes" in labels:
        share = labels["attributes"].double().mean(0).tolist()
        rows += [(n, f"{100 * s:.1f} %") for n, s in zip(ATTRIBUTES, share, strict=True)]
    if "same" in labels:
        same = int(labels["same"].sum()) // 2
        rows += [("pairs of one person", str(same)), ("pairs of two", str(len(found) // 2 - same))]
    return rows


def _print_report(report: Report) -> None:
    for reason, count in report.left_out.items():
        print(f"  {'left out':<24}{count} ({reason})")
    for kind in KINDS:
        if report.counts[kind]:
            print(f"  {kind:<24}{report.counts[kind]}")
            of_kind = [problem for problem in report.problems if problem.kind == kind]
            for problem in of_kind[:_SHOWN]:
                print(f"    {printable(f'{problem.where}: {problem.message}')}")


def _number_or_all(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"must be a number or all, got {text!r}")
    return int(text)
