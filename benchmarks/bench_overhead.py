"""What one call costs besides the kernel: 16 floats through the gate, through
torch.library.custom_op around the same kernels, and through torch.mul as the floor.

`python -m benchmarks.bench_overhead` prints the table.
"""

from __future__ import annotations

import sys
from functools import partial

import torch
from torch import Tensor

from benchmarks.harness import OURS, Case, Workload, forward_backward
from benchmarks.peers.common import compiled
from facekernels import _check, _native, ops, reference

_BETA = 10.0
_FLOOR = "torch.mul (floor)"


@torch.library.custom_op("facekernels_bench::soft_argmax", mutates_args=())
def _soft_argmax(heatmaps: Tensor) -> Tensor:
    xy = heatmaps.new_empty((*heatmaps.shape[:2], 2))
    _native.C.soft_argmax_forward(heatmaps, _BETA, False, xy, None)
    return xy


@_soft_argmax.register_fake
def _(heatmaps: Tensor) -> Tensor:
    return heatmaps.new_empty((*heatmaps.shape[:2], 2))


@torch.library.custom_op("facekernels_bench::soft_argmax_stats", mutates_args=())
def _soft_argmax_stats(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    xy = heatmaps.new_empty((*heatmaps.shape[:2], 2))
    stats = heatmaps.new_empty((*heatmaps.shape[:2], 4))
    _native.C.soft_argmax_forward(heatmaps, _BETA, False, xy, stats)
    return xy, stats


@torch.library.custom_op("facekernels_bench::soft_argmax_backward", mutates_args=())
def _soft_argmax_backward(heatmaps: Tensor, stats: Tensor, d_xy: Tensor) -> Tensor:
    d = torch.empty_like(heatmaps)
    _native.C.soft_argmax_backward(heatmaps, _BETA, False, stats, d_xy, d)
    return d


def _save(ctx, inputs, output):
    ctx.save_for_backward(inputs[0], output[1])


def _backward(ctx, d_xy, _):
    heatmaps, stats = ctx.saved_tensors
    return _soft_argmax_backward(heatmaps, stats, d_xy.contiguous())


_soft_argmax_stats.register_autograd(_backward, setup_context=_save)


def _setup(mode: str, device: torch.device) -> Workload:
    grad = mode in ("eager with grad", "forward+backward")

    def make_inputs() -> tuple[Tensor, ...]:
        heatmaps = torch.randn(1, 1, 4, 4, device=device, requires_grad=grad)
        return (heatmaps, torch.ones(1, 1, 2)) if mode == "forward+backward" else (heatmaps,)

    def gate(heatmaps: Tensor) -> Tensor:
        return ops.soft_argmax(heatmaps, _BETA)

    def custom(heatmaps: Tensor) -> Tensor:
        _check.floating("heatmaps", heatmaps)  # as ours does
        return _soft_argmax_stats(heatmaps)[0] if grad else _soft_argmax(heatmaps)

    def multiply(heatmaps: Tensor) -> Tensor:
        return torch.mul(heatmaps, heatmaps)

    def oracle(heatmaps: Tensor) -> Tensor:
        return reference.soft_argmax(heatmaps, _BETA)

    functions = {OURS: gate, "torch.library.custom_op": custom, _FLOOR: multiply}
    if mode == "torch.compile":
        functions = {name: compiled(f) for name, f in functions.items()}
    if mode == "forward+backward":
        floor = forward_backward(multiply, [0])
        ones = torch.ones(1, 1, 4, 4)
        functions = {name: forward_backward(f, [0]) for name, f in functions.items()}
        functions[_FLOOR] = lambda heatmaps, _: floor(heatmaps, ones)
        oracle = forward_backward(oracle, [0])
    return Workload(make_inputs, functions, bytes=0, reference=oracle)


_MODES = ("eager, no grad", "eager with grad", "forward+backward", "torch.compile")
CASES = [
    Case("call_overhead", "soft_argmax 1x1x4x4", mode, partial(_setup, mode), True, ("cpu",))
    for mode in _MODES
]


def bench_overhead(compare, case):
    """Collected by pytest; `facekernels bench` reads CASES."""
    compare(case)


if __name__ == "__main__":
    from facekernels.cli import main

    sys.exit(main(["bench", "--filter", "call_overhead", "--seconds", "1"]))
