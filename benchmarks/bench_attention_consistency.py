"""cam_flip_consistency against the published order of work, eager PyTorch and torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.harness import OURS, Case, Workload, forward_backward
from benchmarks.peers import attention_consistency as peers
from benchmarks.peers.common import compiled
from facekernels import ops, reference

_CLASSES = 7


def _ours(features: Tensor, flipped: Tensor, weight: Tensor, class_weights: Tensor) -> Tensor:
    return ops.cam_flip_consistency(features, flipped, weight, class_weights).loss


def _setup(
    shape: tuple[int, ...], backward: bool, layout: torch.memory_format, device: torch.device
) -> Workload:
    functions: dict[str, Callable[..., Tensor]] = {
        OURS: _ours,
        "published": peers.cam_flip_published,
        "einsum": peers.cam_flip_einsum,
        "difference": peers.cam_flip_difference,
        "torch.compile": compiled(peers.cam_flip_difference),
    }

    def oracle(*args: Tensor) -> Tensor:
        return reference.cam_flip_consistency(*args)[0]

    if backward:
        functions = {name: forward_backward(f, [0, 1]) for name, f in functions.items()}
        oracle = forward_backward(oracle, [0, 1])
    batch, channels, height, width = shape

    def make_inputs() -> tuple[Tensor, ...]:
        views = tuple(
            torch.randn(shape, device=device).to(memory_format=layout).requires_grad_(backward)
            for _ in range(2)
        )
        weight = torch.randn(_CLASSES, channels, device=device)
        class_weights = torch.rand(_CLASSES, device=device)
        end = (torch.ones((), device=device),) if backward else ()
        return (*views, weight, class_weights, *end)

    elements = batch * channels * height * width
    passes = 2 if backward else 1
    # Both views are read, both gradients written; a product per class and element each time.
    return Workload(
        make_inputs, functions, 8 * elements * passes, 2 * _CLASSES * elements * passes, oracle
    )


_NCHW, _NHWC = torch.contiguous_format, torch.channels_last

_CASES = (
    ((32, 512, 7, 7), False, _NCHW, False),
    ((4, 512, 7, 7), True, _NCHW, True),
    ((32, 512, 7, 7), True, _NCHW, False),
    ((64, 512, 7, 7), True, _NCHW, False),
    ((32, 768, 7, 7), True, _NHWC, False),
    ((32, 2048, 7, 7), True, _NCHW, False),
    ((32, 2048, 7, 7), True, _NHWC, False),
    ((16, 512, 14, 14), True, _NCHW, False),
)

CASES = [
    Case(
        "cam_flip_consistency",
        f"{'x'.join(map(str, shape))}{' channels_last' if layout is _NHWC else ''}",
        "forward+backward" if backward else "forward",
        partial(_setup, shape, backward, layout),
        quick,
    )
    for shape, backward, layout, quick in _CASES
]


def bench_attention_consistency(compare, case):
    """Collected by pytest; `facekernels bench` reads CASES."""
    compare(case)
