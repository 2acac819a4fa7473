"""soft_argmax against eager PyTorch, torch.compile and kornia."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks.harness import OURS, Case, Workload, forward_backward
from benchmarks.peers import soft_argmax as peers
from benchmarks.peers.common import compiled
from facekernels import ops, reference

_BETA = 10.0


def _setup(shape: tuple[int, ...], backward: bool, device: torch.device) -> Workload:
    functions = {
        OURS: lambda h: ops.soft_argmax(h, _BETA),
        "eager": partial(peers.soft_argmax, beta=_BETA),
        "torch.compile": compiled(partial(peers.soft_argmax, beta=_BETA)),
    }
    unavailable = {}
    try:
        functions["kornia"] = peers.kornia_soft_argmax(_BETA)
    except ImportError as error:
        unavailable["kornia"] = str(error)

    def oracle(h: Tensor) -> Tensor:
        return reference.soft_argmax(h, _BETA)

    if backward:
        functions = {name: forward_backward(f, [0]) for name, f in functions.items()}
        oracle = forward_backward(oracle, [0])

    def make_inputs() -> tuple[Tensor, ...]:
        heatmaps = torch.rand(shape, device=device, requires_grad=backward)
        return (heatmaps, torch.randn(*shape[:2], 2, device=device)) if backward else (heatmaps,)

    size = 4 * shape[0] * shape[1] * shape[2] * shape[3]
    # Backward reads the map again, because no map is kept, and writes its gradient.
    return Workload(
        make_inputs, functions, size * (3 if backward else 1), 0, oracle, unavailable=unavailable
    )


CASES = [
    Case("soft_argmax", "32x17x64x48", mode, partial(_setup, (32, 17, 64, 48), backward), quick)
    for mode, backward, quick in (("forward", False, True), ("forward+backward", True, False))
]


def bench_soft_argmax(compare, case):
    """Collected by pytest; `facekernels bench` reads CASES."""
    compare(case)
