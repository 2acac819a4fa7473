"""Runs the CUDA kernels once, forward and backward, on small or large input.

What `gpu_check.sh` runs under compute-sanitizer and ncu: the benchmarks' inputs, no peers.
`--slowest PROFILE` prints the two slowest of our kernels in ncu's CSV output.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def slowest(profile: str, count: int = 2) -> list[str]:
    """Names of the kernels of facekernels with the longest single launch."""
    lines = [line for line in profile.splitlines() if line.startswith('"')]
    longest: dict[str, float] = {}
    for row in csv.DictReader(lines):
        if "facekernels" not in row["Kernel Name"]:
            continue
        # `void facekernels::family::kernel<...>(...)` -> `kernel`, what --kernel-name matches
        name = row["Kernel Name"].split("(")[0].split("<")[0].split("::")[-1]
        time = float(row["Metric Value"].replace(",", ""))
        longest[name] = max(time, longest.get(name, 0.0))
    return sorted(longest, key=lambda name: -longest[name])[:count]


def run(large: bool) -> None:
    """Every CUDA case of the benchmarks (only the quick ones unless `large`), ours alone."""
    import torch

    sys.path.insert(0, str(ROOT))
    from benchmarks.harness import OURS
    from benchmarks.run import all_cases, select

    for case in select(all_cases(), "", not large, "cuda"):
        workload = case.setup(torch.device("cuda"))
        workload.implementations[OURS](*workload.make_inputs())
        torch.cuda.synchronize()
        print(case.name, file=sys.stderr)


def main() -> int:
    """Parse the arguments; exit code 0, or 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--slowest", type=Path, metavar="PROFILE")
    arguments = parser.parse_args()
    if arguments.slowest:
        print("\n".join(slowest(arguments.slowest.read_text())))
        return 0
    import torch

    if not torch.cuda.is_available():
        print("needs a GPU: torch.cuda.is_available() is False", file=sys.stderr)
        return 2
    run(arguments.large)
    return 0


if __name__ == "__main__":
    sys.exit(main())
