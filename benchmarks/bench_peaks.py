"""heatmap_peaks against max pooling with topk, eager and compiled, kornia and scipy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import OURS, Case, Implementation, Workload
from benchmarks.peers import peaks as peers
from benchmarks.peers.common import compiled
from facekernels import ops, reference

_KERNEL = 5
_THRESHOLD = 0.1


def _maps(count: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """A corner or centre map: about `count` Gaussians of sigma 2 above noise that reaches 0.05."""
    b, k, height, width = shape
    points = (torch.rand(b, k, height, width) < count / (height * width)).float()
    bump = torch.exp(-(torch.arange(-6, 7) ** 2) / 8.0)
    for dim in (2, 3):
        weights = bump.view(1, 1, -1, 1) if dim == 2 else bump.view(1, 1, 1, -1)
        points = torch.nn.functional.conv2d(
            points.flatten(0, 1).unsqueeze(1), weights, padding="same"
        ).view(shape)
    return (points + 0.05 * torch.rand(shape)).to(device)


def _noise(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """The worst case: every cell passes the threshold."""
    return (0.5 + 0.5 * torch.rand(shape)).to(device)


def _setup(
    shape: tuple[int, ...],
    topk: int,
    inputs: Callable[[tuple[int, ...], torch.device], Tensor],
    device: torch.device,
) -> Workload:
    settings: dict[str, Any] = {"kernel": _KERNEL, "threshold": _THRESHOLD, "topk": topk}
    pooled = peers.pooled_peaks(**settings)
    functions: dict[str, Implementation] = {
        OURS: lambda h: ops.heatmap_peaks(h, **settings).score,
        "eager": lambda h: pooled(h)[0],
        "torch.compile": compiled(lambda h: pooled(h)[0]),
    }
    missing = {}
    for name, make in (("kornia", peers.kornia_peaks), ("scipy", peers.scipy_peaks)):
        try:
            find = make(**settings)
        except ImportError as error:
            missing[name] = str(error)
        else:
            functions[name] = lambda h, find=find: find(h)[0]
    return Workload(
        make_inputs=lambda: (inputs(shape, device),),
        implementations=functions,
        bytes=4 * shape[0] * shape[1] * shape[2] * shape[3],
        reference=lambda h: reference.heatmap_peaks(h, **settings)[1],
        unavailable=missing,
    )


def _case(shape: tuple[int, ...], topk: int, count: int | None, quick: bool = False) -> Case:
    size = f"{'x'.join(map(str, shape))} top {topk}"
    inputs = partial(_maps, count) if count else _noise
    mode = f"{count} peaks" if count else "noise above threshold"
    return Case("heatmap_peaks", size, mode, partial(_setup, shape, topk, inputs), quick)


CASES = [
    _case((4, 4, 256, 256), 100, 25, quick=True),
    _case((4, 4, 256, 256), 100, None),
    _case((32, 17, 64, 48), 30, 3),
    _case((32, 17, 64, 48), 30, 25),
]


def bench_peaks(compare, case):
    """Collected by pytest; `facekernels bench` reads CASES."""
    compare(case)
