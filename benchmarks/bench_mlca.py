"""mlca_gate against SwinFace's branch loop and the folded form, eager and compiled; the backward
pass of conv_mean_max against the dense one; nn.MLCA against the published order of work.
"""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import OURS, Case, Workload, forward_backward
from benchmarks.peers import mlca as peers
from benchmarks.peers.common import compiled
from facekernels import ops, reference
from facekernels.nn import MLCA
from facekernels.ops import conv_pools

_REDUCTION = 16
_SIDE = 7  # of the maps that SwinFace pools


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
        "torch.compile folded": compiled(peers.mlca_folded),
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


def _conv_inputs(
    batch: int, in_channels: int, out_channels: int, device: torch.device
) -> tuple[Tensor, ...]:
    pools = torch.randn(2, batch, out_channels, device=device)
    argmax = torch.randint(_SIDE * _SIDE, (batch, out_channels), dtype=torch.int32, device=device)
    x = torch.randn(batch, in_channels, _SIDE, _SIDE, device=device)
    weight = torch.randn(out_channels, in_channels, 3, 3, device=device) * 0.02
    return (*pools, argmax, x, weight)


def _conv_setup(batch: int, in_channels: int, out_channels: int, device: torch.device) -> Workload:
    dense = partial(_both, conv_pools._dense_backward)
    weights = 9 * in_channels * out_channels
    return Workload(
        make_inputs=partial(_conv_inputs, batch, in_channels, out_channels, device),
        implementations={OURS: partial(_both, conv_pools._structured_backward), "dense": dense},
        bytes=4 * 2 * (weights + batch * in_channels * _SIDE * _SIDE),
        flops=2 * 2 * 2 * batch * weights,  # two gradients from two patches
        reference=dense,
    )


def _both(backward: Any, *inputs: Tensor) -> Any:
    return backward(*inputs, True, True)


def _conv_case(batch: int, in_channels: int, out_channels: int, quick: bool = False) -> Case:
    return Case(
        "conv_mean_max",
        f"B{batch} {in_channels} to {out_channels} channels {_SIDE}x{_SIDE}",
        "backward",
        partial(_conv_setup, batch, in_channels, out_channels),
        quick,
    )


def _module_setup(batch: int, backward: bool, device: torch.device) -> Workload:
    module = MLCA().to(device)
    dense = deepcopy(module)
    dense.structured_backward = False
    parameters = sum(p.numel() for p in module.parameters())

    def inputs() -> tuple[Tensor, ...]:
        x = torch.randn(batch, sum(module.in_channels), _SIDE, _SIDE, device=device)
        if not backward:
            return (x,)
        grad = torch.randn(len(module.nets), batch, sum(module.out_channels), device=device)
        return x.requires_grad_(), grad

    def step(forward: Any, of: MLCA) -> Any:
        def run(x: Tensor, *grad: Tensor) -> Any:
            if not grad:
                with torch.no_grad():
                    return forward(x)
            out = forward(x)
            return (out.detach(), *torch.autograd.grad(out, [x, *of.parameters()], grad))

        return run

    def exact(*double: Tensor) -> Any:
        copy = deepcopy(module).double()
        return step(partial(peers.mlca_module, copy), copy)(*double)

    convolution = 2 * batch * _SIDE * _SIDE * parameters  # the gate's share is below a percent
    return Workload(
        make_inputs=inputs,
        implementations={
            OURS: step(module, module),
            "dense backward": step(dense, dense),
            "published order": step(partial(peers.mlca_module, module), module),
        },
        bytes=4 * parameters * (3 if backward else 1),
        flops=convolution + (2 * 2 * 2 * batch * parameters if backward else 0),
        reference=exact,
    )


def _module_case(batch: int, *, backward: bool, quick: bool = False) -> Case:
    return Case(
        "nn.MLCA",
        f"B{batch} 11 branches 2112x{_SIDE}x{_SIDE}",
        "forward+backward" if backward else "forward",
        partial(_module_setup, batch, backward),
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
    _conv_case(8, 192, 517, quick=True),
    _conv_case(8, 768, 2046),
    _conv_case(32, 768, 186),
    _conv_case(32, 768, 2046),
    _module_case(2, backward=True, quick=True),
    _module_case(8, backward=False),
    _module_case(8, backward=True),
    _module_case(32, backward=False),
    _module_case(32, backward=True),
]


def bench_mlca(compare, case):
    """Collected by pytest; `facekernels bench` reads CASES."""
    compare(case)
