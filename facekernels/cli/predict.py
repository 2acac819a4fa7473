"""`facekernels predict SYSTEM IMAGE...`: what a trained system sees in face images."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

SYSTEMS = ("balanced_fer", "swinface")
"""Systems that have `load`, `predict` and `draw`."""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = argparse.ArgumentParser(
        "facekernels predict",
        description="Say what a trained system sees in images, each an aligned crop of one face.",
    )
    p.add_argument("system", choices=SYSTEMS)
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
        help="also draw the results beside the images, as PNG files in this folder",
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Print one result per image; 0, or 1 if an image could not be read."""
    arguments = parser().parse_args(argv)
    system = import_module(f"facekernels.systems.{arguments.system}")
    try:
        model = system.load(arguments.checkpoint)
    except (OSError, ValueError) as error:
        print(f"facekernels predict: {error}", file=sys.stderr)
        return 1
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
    failed = 0
    for path in arguments.images:
        try:
            image = _read(path)
        except OSError as error:
            print(f"{path}: cannot be read as an image: {error}", file=sys.stderr)
            failed += 1
            continue
        (result,) = system.predict(model, image[None])
        print(f"{path}: {result}")
        if arguments.output is not None:
            target = arguments.output / f"{path.stem}.png"
            system.draw(image, result).save(target)
            print(f"  drawn in {target}")
    return 1 if failed else 0


def _read(path: Path):  # type: ignore[no-untyped-def]
    """``[3, H, W]`` uint8 RGB."""
    import numpy as np
    import torch
    from PIL import Image

    with Image.open(path) as file:
        return torch.from_numpy(np.array(file.convert("RGB"))).permute(2, 0, 1)
