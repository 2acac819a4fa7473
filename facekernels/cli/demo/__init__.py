"""`facekernels demo`: the ops at work on real photographs, checked and timed, with a report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str]) -> int:
    """Run the demo; 0 if every op agrees with its reference, else 1."""
    parser = argparse.ArgumentParser(
        "facekernels demo",
        description="Train a tiny face classifier on 200 real crops, find the face in a "
        "photograph, check and time every op on the way, and write an HTML report.",
    )
    parser.add_argument("--output", type=Path, default=Path("report"), metavar="FOLDER",
                        help="where index.html is written (default: %(default)s)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the training (default: 0)")
    parser.add_argument("--quick", action="store_true", help="train and time for less long")
    arguments = parser.parse_args(argv)

    from facekernels.cli.demo.run import run

    return run(arguments.output, arguments.seed, arguments.quick)
