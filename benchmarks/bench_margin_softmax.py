"""margin_cross_entropy, forward and backward, against PyTorch that makes the logits, that goes over
the classes in chunks, and the published order of work. `python -m benchmarks.bench_margin_softmax`
prints the memory each of them needs beyond its arguments and results.
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import OURS, Case, Workload
from benchmarks.peers import margin_softmax as peers
from benchmarks.peers.common import compiled
from facekernels import ops, reference
from facekernels.systems.common.memory import peak_mb

_S, _MARGIN = 64.0, 0.4


def _ours(e: Tensor, w: Tensor, labels: Tensor, keep: bool = False) -> Tensor:
    margins = (1.0, 0.0, _MARGIN)
    return ops.margin_cross_entropy(e, w, labels, _S, margins, keep_cosines=keep)


_KEEPING = partial(_ours, keep=True)
IMPLEMENTATIONS = {
    OURS: _ours,
    "eager": partial(peers.margin_eager, s=_S, margin=_MARGIN),
    "chunks, checkpointed": partial(peers.margin_chunked, s=_S, margin=_MARGIN),
    "insightface order": partial(peers.margin_published, s=_S, margin=_MARGIN),
}


def _inputs(batch: int, classes: int, dim: int, device: torch.device) -> tuple[Tensor, ...]:
    e = torch.randn(batch, dim, device=device, requires_grad=True)
    w = torch.randn(classes, dim, device=device).mul_(0.01).requires_grad_()
    return e, w, torch.randint(classes, (batch,), device=device)


def _step(function: Any, backward: bool, e: Tensor, w: Tensor, labels: Tensor) -> Any:
    if not backward:
        with torch.no_grad():
            return function(e, w, labels)
    loss = function(e, w, labels)
    return (loss.detach(), *torch.autograd.grad(loss, (e, w)))


def _setup(
    batch: int, classes: int, dim: int, backward: bool, keep: bool, device: torch.device
) -> Workload:
    functions = IMPLEMENTATIONS | ({OURS: _KEEPING} if keep else {})
    functions["torch.compile"] = compiled(IMPLEMENTATIONS["eager"])
    return Workload(
        make_inputs=partial(_inputs, batch, classes, dim, device),
        implementations={name: partial(_step, f, backward) for name, f in functions.items()},
        bytes=4 * (batch + classes) * dim * (2 if backward else 1),
        flops=2 * batch * classes * dim * (3 if backward else 1),
        reference=partial(
            _step, partial(reference.margin_cross_entropy, s=_S, margins=(1.0, 0.0, _MARGIN)),
            backward,
        ),
    )  # fmt: skip


def _case(
    batch: int, classes: int, *, backward: bool = True, keep: bool = False, quick: bool = False
) -> Case:
    dim = 512
    return Case(
        "margin_cross_entropy",
        f"B{batch} V{classes:,} D{dim}",
        ("forward+backward" if backward else "forward") + (", kept cosines" if keep else ""),
        partial(_setup, batch, classes, dim, backward, keep),
        quick,
    )


CASES = [
    _case(32, 4000, quick=True),
    _case(64, 85742, backward=False),
    _case(64, 85742),
    _case(64, 85742, keep=True),
    _case(128, 85742),
    _case(128, 85742, keep=True),
    _case(512, 20000),
    _case(512, 20000, keep=True),
]


def bench_margin_softmax(compare, case):
    """Collected by pytest; `facekernels bench` reads CASES."""
    compare(case)


_MEASURED = IMPLEMENTATIONS | {"kept cosines": _KEEPING}


def _extra_memory(name: str, batch: int, classes: int) -> float:
    """MB beyond arguments and gradients that one step adds to the process's peak."""
    torch.set_num_threads(1)
    step = partial(_step, _MEASURED[name], True)
    step(*_inputs(2, 64, 512, torch.device("cpu")))  # libraries and their buffers
    inputs = _inputs(batch, classes, 512, torch.device("cpu"))
    before = peak_mb()
    step(*inputs)
    return peak_mb() - before - 4 * (batch + classes) * 512 / 2**20


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(f"{_extra_memory(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])):.0f}")
    else:  # each in a process of its own, because a peak never falls
        for sizes in ("64", "85742"), ("512", "85742"):
            for name in _MEASURED:
                command = [sys.executable, "-m", "benchmarks.bench_margin_softmax", name, *sizes]
                run = subprocess.run(command, capture_output=True, text=True, check=True)
                print(f"B {sizes[0]}, V {sizes[1]}, {name}: {run.stdout.strip()} MB")
