"""Time and peak memory of the systems, with the kernels and without.

    python -m tools.measure_systems     writes docs/results/systems/speed.json, prints a table

Each case runs in a process of its own: its peak memory is that of the process less what the
network and the images took before the first step.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from facekernels import backend
from facekernels.data.files import replacing
from facekernels.systems.common.commit import commit
from facekernels.systems.common.memory import peak_mb

OUTPUT = Path(__file__).parents[1] / "docs" / "results" / "systems" / "speed.json"
BATCH = 8
ROUNDS = 5


def swinface() -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    """The published network and a step on eight images, labelled for everything."""
    from facekernels.nn import PartialFC
    from facekernels.systems.swinface import MultiTaskLoss, SwinFace

    network, centres, analysis = SwinFace(), PartialFC(512, 20_000), MultiTaskLoss(100)
    images = torch.randn(BATCH, 3, 112, 112)
    labels = {
        "age": torch.rand(BATCH) * 80,
        "attributes": torch.randint(0, 2, (BATCH, 40)),
        "expression": torch.randint(0, 7, (BATCH,)),
    }
    identity = torch.randint(0, 20_000, (BATCH,))

    def step() -> torch.Tensor:
        answers = network(images)
        losses = analysis(answers, labels, 10)
        return analysis.total(losses) + centres(answers["Recognition"], identity)

    return torch.nn.ModuleList([network, centres]), step


def expression(backbone: str, size: int) -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    """A published expression network and a step on eight images and their mirrors."""
    from facekernels.systems.balanced_fer.task import ExpressionTask

    task = ExpressionTask(backbone, image_size=size)
    task.make_losses(torch.tensor([1290, 281, 717, 4772, 1982, 705, 2524]))
    images, labels = torch.randn(BATCH, 3, size, size), torch.randint(0, 7, (BATCH,))
    return task.network, lambda: task.losses(images, labels)["total"]


CASES: dict[str, Callable[[], tuple[torch.nn.Module, Callable[[], torch.Tensor]]]] = {
    "SwinFace, 112 px": swinface,
    "balanced_fer Swin-T, 112 px": lambda: expression("swin_t", 112),
    "balanced_fer ResNet-18, 224 px": lambda: expression("resnet18", 224),
}


def measure(case: str, kind: str, name: str) -> dict[str, Any]:
    """Seconds per step (median of `ROUNDS`) and peak megabytes of one case."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network, step = CASES[case]()
    before = peak_mb()
    times = []
    with backend(name):
        for _ in range(ROUNDS + 1):
            start = time.process_time()
            if kind == "training":
                network.zero_grad(set_to_none=True)
                step().backward()
            else:
                network.eval()
                with torch.inference_mode():
                    _infer(network)
            times.append(time.process_time() - start)
    return {
        "case": case, "kind": kind, "backend": name,
        "seconds": statistics.median(times[1:]), "peak_mb": round(peak_mb() - before),
    }  # fmt: skip


def _infer(network: torch.nn.Module) -> None:
    model = network[0] if isinstance(network, torch.nn.ModuleList) else network
    model(torch.zeros(BATCH, 3, model.image_size, model.image_size))  # type: ignore[arg-type]


def main() -> int:
    """Measure every case, alone, one thread."""
    context = multiprocessing.get_context("spawn")
    rows = []
    for case in CASES:
        for kind in ("training", "inference"):
            for name in ("auto", "reference"):
                with context.Pool(1) as pool:
                    rows.append(pool.apply(measure, (case, kind, name)))
                print(rows[-1], file=sys.stderr)
    report = {"commit": commit(), "torch": torch.__version__, "threads": 1, "batch": BATCH,
              "rows": rows}  # fmt: skip
    with replacing(OUTPUT) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print("| system, eight images | step | with the kernels | plain PyTorch |\n|---|---|---|---|")
    for ours, plain in zip(rows[::2], rows[1::2], strict=True):
        cells = [f"{r['seconds']:.2f} s, {r['peak_mb']} MB" for r in (ours, plain)]
        print(f"| {ours['case']} | {ours['kind']} | {cells[0]} | {cells[1]} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
