"""The demo from start to end."""

from __future__ import annotations

import os
import time
from pathlib import Path
from statistics import geometric_mean

import torch

from facekernels import _native
from facekernels._version import __version__
from facekernels.cli.demo import checks, report
from facekernels.cli.demo.detect import detect
from facekernels.cli.demo.terminal import Terminal
from facekernels.cli.demo.train import train
from facekernels.cli.demo.weak_points import EPSILON, find_weak_points
from facekernels.collect_env import cpu_model
from facekernels.data import photograph

# Training steps, and seconds of timing for each check.
_FULL = (800, 1.5)
_QUICK = (300, 0.1)


def run(output: Path, seed: int, quick: bool) -> int:
    """Train, detect, check, time, report; 0 if every check holds, else 1."""
    start = time.perf_counter()
    steps, seconds = _QUICK if quick else _FULL
    output.mkdir(parents=True, exist_ok=True)  # before the work, not after it
    terminal = Terminal()
    terminal.line(f"facekernels {__version__} demo · {environment()}")

    with terminal.progress("Training on 160 LFW crops", steps) as progress:
        trained = train(seed, steps, progress.step)
    terminal.line(
        f"validation accuracy {trained.accuracy:.1%} on the {len(trained.labels)} crops kept out"
    )

    photo = photograph("astronaut")
    with terminal.progress("Searching the photograph", 1) as progress:
        detection = detect(trained.model, photo)
        progress.step()
    (x, y), best = detection.center.tolist(), detection.best
    terminal.line(
        f"face at ({x:.1f}, {y:.1f}), {best.face_size:.0f} pixels wide, score {best.score:.2f}"
    )

    with terminal.progress("Fooling the classifier", 1) as progress:
        weak = find_weak_points(trained, detection, photo, seed)
        progress.step()
    terminal.line(
        f"one perturbation of {255 * EPSILON:.0f}/255 fools it on {weak.fooled:.0%} of those crops,"
        f" random signs on {weak.fooled_by_noise:.1%}"
    )

    results = []
    with terminal.progress("Checking and timing every op", len(checks.CHECKS)) as progress:
        for result in checks.run_checks(trained.model, detection, seconds, checks.CHECKS):
            results.append(result)
            progress.step(f"Checked {result.label}")
    terminal.table(results)

    elapsed = time.perf_counter() - start
    facts = report.Facts(environment(), seed, quick, elapsed)
    path = output / "index.html"
    page = report.html(trained, detection, weak, photo, results, facts)
    path.write_text(page, encoding="utf-8")
    failed = [r.label for r in results if not r.ok]
    mean = geometric_mean([r.speedup for r in results])
    terminal.line(
        f"FAILED: {', '.join(failed)} disagree with the reference" if failed else
        f"all {len(results)} checks agree with the float64 reference; "
        f"{mean:.1f}× eager PyTorch in the geometric mean"
    )  # fmt: skip
    terminal.line(f"report: {path.resolve()} ({elapsed:.0f} s)")
    return 1 if failed else 0


def environment() -> str:
    """What the timings depend on, in one line."""
    variant = _native.C.build_info()["cpu_variant"] if _native.C is not None else "not loaded"
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{cpu_model()} ({cpus} CPUs), kernels {variant}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads"
    )
