"""Runs cases and keeps their rows: what `facekernels bench` calls."""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
import time
from argparse import Namespace
from datetime import UTC, datetime
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks import harness, report
from facekernels import collect_env

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
_PACKAGES = ("facekernels", "torch", "numpy", "opencv-python-headless", "kornia", "scipy")


def run(arguments: Namespace) -> int:
    """Measure, write JSON, and with `--report` regenerate the documentation."""
    if arguments.report_only:
        return _report()
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        print("--device cuda was given, but torch sees no GPU here", file=sys.stderr)
        return 2
    cases = select(all_cases(), arguments.filter, arguments.quick, device.type)
    if not cases:
        print(
            f"no case of {device.type} matches --filter {arguments.filter!r}; "
            "see facekernels bench --list",
            file=sys.stderr,
        )
        return 2
    if arguments.list:
        print("\n".join(case.name for case in cases))
        return 0

    set_threads(arguments.threads)
    kept = arguments.allocator == "kept" and device.type == "cpu" and keep_freed_memory()
    timer = arguments.timer or ("cpu" if arguments.threads == 1 else "wall")
    clock = harness.CPU_CLOCK if timer == "cpu" else harness.WALL_CLOCK
    seconds = arguments.seconds or (0.5 if arguments.quick else 2.0)
    result = describe(
        device, arguments.threads, "events" if device.type == "cuda" else timer, arguments.dtype
    )
    result["freed_memory_kept"] = kept
    output = arguments.output or default_output(result, arguments)

    print(f"{result['cpu']}, {result['gpu'] or 'no GPU'}; {len(cases)} cases on {device.type}")
    result["ceilings"] = harness.measure_ceilings(device, clock)
    print("  ".join(f"{name} {value:.1f}" for name, value in result["ceilings"].items()))
    started = time.perf_counter()
    for number, case in enumerate(cases, 1):
        print(f"[{number}/{len(cases)}] {case.name} ...", end=" ", flush=True)
        try:
            row = harness.run_case(
                case, device, clock, seconds, result["ceilings"], getattr(torch, arguments.dtype)
            )
        except harness.Unsupported as reason:
            print(f"not in {arguments.dtype}: {reason}", flush=True)
            continue
        result["rows"].append(row)
        write(result, output)  # after every case: an interrupted run keeps what it measured
        print(report.one_line(row), flush=True)
    print(f"\n{report.tables(result)}\n{time.perf_counter() - started:.0f} s; wrote {output}")
    return _report() if arguments.report else 0


def all_cases() -> list[harness.Case]:
    """The cases of every bench_*.py."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py"))
    return [case for name in names for case in import_module(f"benchmarks.{name}").CASES]


def select(cases: list[harness.Case], text: str, quick: bool, device: str) -> list[harness.Case]:
    """The cases of a device whose name contains `text`."""
    return [c for c in cases if text in c.name and (c.quick or not quick) and device in c.devices]


def set_threads(threads: int) -> None:
    """One number for torch, our kernels (which follow torch) and OpenCV."""
    torch.set_num_threads(threads)
    try:
        import cv2
    except ImportError:
        return
    cv2.setNumThreads(threads)


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for the next result, as in a process under jemalloc.

    By default it returns every large result to the system, and the page faults of the next one take
    several times as long as the kernel that fills it, whoever wrote that kernel.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    never_map, never_trim = (-4, 0), (-1, 2**31 - 1)  # M_MMAP_MAX, M_TRIM_THRESHOLD
    return bool(mallopt and mallopt(*never_map) and mallopt(*never_trim))


def describe(
    device: torch.device, threads: int, timer: str, dtype: str = "float32"
) -> dict[str, Any]:
    """Everything but the rows: where, with what, and when."""
    environment = collect_env.collect()
    gpu = torch.cuda.get_device_name() if device.type == "cuda" else None
    return {
        "schema": 1,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cpu": environment["cpu"],
        "cpu_variant": environment["extension"]["cpu_variant"],
        "gpu": gpu,
        "driver": environment["gpu"]["driver"] if gpu else None,
        "platform": environment["platform"],
        "device": device.type,
        "threads": threads,
        "timer": timer,
        "dtype": dtype,
        "versions": {"python": environment["python"]["version"]} | _versions(),
        "compiler": environment["extension"]["compiler"],
        "cuda_toolkit": environment["extension"]["cuda_toolkit"],
        "ceilings": {},
        "rows": [],
    }


def default_output(result: dict[str, Any], arguments: Namespace) -> Path:
    """`benchmarks/results/<machine>/<device>-<threads>t[-<dtype>][-quick|-part].json`."""
    machine = slug(result["gpu"] or result["cpu"])
    suffix = "" if result["dtype"] == "float32" else f"-{result['dtype']}"
    suffix += "-part" if arguments.filter else "-quick" if arguments.quick else ""
    return RESULTS / machine / f"{result['device']}-{result['threads']}t{suffix}.json"


def slug(text: str) -> str:
    """`AMD EPYC 7763 64-Core` -> `amd-epyc-7763-64-core`."""
    plain = re.sub(r"\((r|tm)\)", "", text.lower())
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def write(result: dict[str, Any], path: Path) -> None:
    """Replace the file in one step, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(partial, path)


def _report() -> int:
    for path in report.write_all(RESULTS, ROOT / "docs"):
        print(f"wrote {path}")
    return 0


def _commit() -> str | None:
    def git(*command: str) -> str:
        return subprocess.run(
            ["git", *command], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True
        ).stdout.strip()

    try:
        dirty = "-dirty" if git("status", "--porcelain", "--untracked-files=no") else ""
        return git("rev-parse", "--short=12", "HEAD") + dirty
    except (OSError, subprocess.SubprocessError):
        return None


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
