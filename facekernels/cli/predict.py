"""`facekernels predict SYSTEM IMAGE...`: what a trained system sees in face images."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from facekernels.systems.registry import PREDICTING


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = argparse.ArgumentParser(
        "facekernels predict",
        description="Say what a trained system sees in images, each an aligned crop of one face. "
        "Images are turned upright as their EXIF data says; of one that is not square, the central "
        "square is used.",
    )
    p.add_argument("system", choices=PREDICTING)
    p.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    p.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="FILE",
        help="of a training with `facekernels fit`, or the published one where there is one",
    )
    p.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="also draw the results beside the images, as PNG files in this folder; the second "
        "image of a name gets name-2.png",
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Print one result per image; 0, or 1 if an image could not be read."""
    arguments = parser().parse_args(argv)
    from facekernels.data.image_sources import UnreadableImage, decode

    system = import_module(f"facekernels.systems.{arguments.system}")
    try:
        model = system.load(arguments.checkpoint)
    except (OSError, ValueError) as error:
        print(f"facekernels predict: {error}", file=sys.stderr)
        return 1
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
    failed = 0
    drawn: set[Path] = set()
    for path in arguments.images:
        try:
            image = decode(str(path), str(path))
        except UnreadableImage as error:
            print(error, file=sys.stderr)
            failed += 1
            continue
        (result,) = system.predict(model, image[None])
        print(f"{path}: {result}")
        if arguments.output is not None:
            target = _unused(arguments.output / f"{path.stem}.png", drawn)
            system.draw(image, result).save(target)
            print(f"  drawn in {target}")
    return 1 if failed else 0


def _unused(path: Path, used: set[Path]) -> Path:
    """`path`, numbered if this call has written it already."""
    number, chosen = 1, path
    while chosen in used:
        number += 1
        chosen = path.with_stem(f"{path.stem}-{number}")
    used.add(chosen)
    return chosen
