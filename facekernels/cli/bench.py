"""`facekernels bench`: runs the benchmarks of a source checkout (a wheel holds none)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import facekernels


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = argparse.ArgumentParser(
        "facekernels bench",
        description="Time every op against its peers, interleaved in one process.",
    )
    p.add_argument("--quick", action="store_true", help="the small set, under a minute")
    p.add_argument(
        "--filter",
        default="",
        metavar="TEXT",
        help="only cases whose name contains TEXT, e.g. mlca",
    )
    p.add_argument("--list", action="store_true", help="print the case names and stop")
    p.add_argument("--threads", type=_positive, default=1, metavar="N", help="default: 1")
    p.add_argument("--device", choices=("cpu", "cuda"), help="default: CUDA if there is a GPU")
    p.add_argument(
        "--dtype",
        choices=("float32", "float64", "bfloat16", "float16"),
        default="float32",
        help="of the inputs; peers that refuse it are left out (default: float32)",
    )
    p.add_argument(
        "--timer",
        choices=("cpu", "wall"),
        help="process CPU time or wall clock; default: cpu with 1 thread, else wall",
    )
    p.add_argument(
        "--allocator",
        choices=("kept", "default"),
        default="kept",
        help="on the CPU: keep freed memory in the process, or return it as glibc does by default, "
        "and see the page faults of large results in every row",
    )
    p.add_argument(
        "--seconds",
        type=float,
        default=None,
        metavar="S",
        help="time to spend on the rounds of a case; default: 2, or 0.5 with --quick",
    )
    p.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="default: benchmarks/results/<machine>/<device>-<threads>t.json",
    )
    p.add_argument(
        "--report",
        action="store_true",
        help="regenerate docs/benchmarks.md and its plots from all results",
    )
    p.add_argument("--report-only", action="store_true", help="the same, without running anything")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Find the checkout's `benchmarks` folder and run it."""
    arguments = parser().parse_args(argv)
    root = find_checkout()
    if root is None:
        print(
            "facekernels bench runs from a source checkout, because the installed package holds no "
            "benchmarks. Clone the repository, then run this command inside it.",
            file=sys.stderr,
        )
        return 2
    sys.path.insert(0, str(root))
    return int(import_module("benchmarks.run").run(arguments))


def find_checkout() -> Path | None:
    """The source tree at or above the current folder, or the one the package is imported from."""
    here = Path.cwd()
    for folder in (here, *here.parents, Path(facekernels.__file__).parent.parent):
        if (folder / "benchmarks" / "harness.py").is_file() and (folder / "facekernels").is_dir():
            return folder
    return None


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value
