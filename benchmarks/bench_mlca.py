"""mlca_gate against SwinFace's branch loop and the folded form, eager and compiled."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.harness import OURS, Case, Workload, forward_backward
from facekernels import ops, reference

_REDUCTION = 16


def _inputs(
    shape: tuple[int, ...], channels_last: bool, backward: bool, device: torch.device
) -> tuple[Tensor, ...]:
    g, b, c, *_ = shape
    r = c // _REDUCTION
    x = torch.randn(shape, device=device)
    if channels_last:
        x = x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    weights = [
        torch.randn(g, r, c, device=device) * c**-0.5,
        torch.randn(g, r, device=device) * 0.1,
        torch.randn(g, c, r, device=device) * r**-0.5,
        torch.randn(g, c, device=device) * 0.1,
    ]
    if not backward:
        return (x, *weights)
    return (*(t.requires_grad_() for t in (x, *weights)), torch.randn(g, b, c, device=device))


def _setup(
    shape: tuple[int, ...], channels_last: bool, backward: bool, device: torch.device
) -> Workload:
    g, b, c, h, w = shape
    implementations = {
        OURS: ops.mlca_gate,
        "eager branch loop": peers.mlca_branch_loop,
        "eager folded": peers.mlca_folded,
        "torch.compile folded": peers.compiled(peers.mlca_folded),
    }
    oracle = reference.mlca_gate
    if backward:
        step = partial(forward_backward, needs_grad=range(5))
        implementations = {name: step(f) for name, f in implementations.items()}
        oracle = step(oracle)
    maps = 4 * g * b * c * h * w
    mlp = 3 * 2 * g * b * c * (c // _REDUCTION)  # two first layers, one second layer
    return Workload(
        make_inputs=partial(_inputs, shape, channels_last, backward, device),
        implementations=implementations,
        bytes=maps * (2 if backward else 1),  # read x, write dx
        flops=mlp * (3 if backward else 1),
        reference=oracle,
    )


def _case(
    g: int,
    b: int,
    side: int,
    *,
    backward: bool = False,
    channels_last: bool = False,
    quick: bool = False,
) -> Case:
    shape = (g, b, 512, side, side)
    return Case(
        "mlca_gate",
        f"G{g} B{b} C512 {side}x{side}" + (" channels_last" if channels_last else ""),
        "forward+backward" if backward else "forward",
        partial(_setup, shape, channels_last, backward),
        quick,
    )


CASES = [
    _case(11, 8, 7, quick=True),
    _case(11, 8, 7, backward=True, quick=True),
    _case(11, 32, 7),
    _case(11, 32, 7, backward=True),
    _case(11, 32, 7, channels_last=True),
    _case(11, 32, 7, channels_last=True, backward=True),
    _case(1, 16, 14),
    _case(1, 16, 14, backward=True),
    _case(1, 4, 28),
    _case(1, 4, 28, backward=True),
    _case(1, 2, 56),
    _case(1, 2, 56, backward=True),
]


def bench_mlca(compare, case):
    """Collected by pytest; `facekernels bench` reads CASES."""
    compare(case)
