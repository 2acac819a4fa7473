"""gradient_attention_map against eager PyTorch in its best forms and torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.harness import OURS, Case, Workload, forward_backward
from benchmarks.peers.common import compiled
from facekernels import ops, reference


def _absmax(grad: Tensor) -> Tensor:
    return grad.abs().amax(1, keepdim=True)


def _absmax_norm(grad: Tensor) -> Tensor:
    """One pass less than abs and amax: the infinity norm over channels."""
    return torch.linalg.vector_norm(grad, float("inf"), 1, keepdim=True)


def _gradcam(grad: Tensor, features: Tensor) -> Tensor:
    return torch.relu((grad.mean((2, 3), keepdim=True) * features).sum(1, keepdim=True))


def _gradcam_bmm(grad: Tensor, features: Tensor) -> Tensor:
    """The product as a matrix product, without an intermediate of the features' size."""
    weights = grad.mean((2, 3)).unsqueeze(1)
    if not features.is_contiguous():  # channels_last: channels are the rows' inner dimension
        pixels = features.permute(0, 2, 3, 1).flatten(1, 2)
        return torch.relu(torch.bmm(pixels, weights.mT)).mT.unflatten(2, features.shape[2:])
    return torch.relu(torch.bmm(weights, features.flatten(2))).unflatten(2, features.shape[2:])


def _setup(
    reduce: str,
    shape: tuple[int, ...],
    backward: bool,
    layout: torch.memory_format,
    device: torch.device,
) -> Workload:
    functions: dict[str, Callable[..., Tensor]]
    count = 2 if reduce == "gradcam" else 1
    if count == 1:
        functions = {
            OURS: ops.gradient_attention_map,
            "eager": _absmax,
            "vector_norm": _absmax_norm,
            "torch.compile": compiled(_absmax),
        }
    else:
        functions = {
            OURS: partial(ops.gradient_attention_map, reduce="gradcam"),
            "eager": _gradcam,
            "bmm": _gradcam_bmm,
            "torch.compile": compiled(_gradcam),
        }
    oracle: Callable[..., Tensor] = partial(reference.gradient_attention_map, reduce=reduce)
    if backward:
        functions = {n: forward_backward(f, list(range(count))) for n, f in functions.items()}
        oracle = forward_backward(oracle, list(range(count)))
    batch, channels, height, width = shape

    def make_inputs() -> tuple[Tensor, ...]:
        inputs = tuple(
            torch.randn(shape, device=device).to(memory_format=layout).requires_grad_(backward)
            for _ in range(count)
        )
        return (
            (*inputs, torch.randn(batch, 1, height, width, device=device)) if backward else inputs
        )

    size = 4 * batch * height * width * (channels * count * (3 if backward else 1) + 1)
    return Workload(make_inputs, functions, size, 0, oracle)


_NCHW, _NHWC = torch.contiguous_format, torch.channels_last

_CASES = (
    ("gradcam", (8, 64, 14, 14), False, _NCHW, True),
    ("gradcam", (256, 512, 7, 7), False, _NCHW, False),
    ("gradcam", (64, 128, 56, 56), False, _NCHW, False),
    ("gradcam", (64, 128, 56, 56), False, _NHWC, False),
    ("gradcam", (64, 128, 14, 14), True, _NCHW, False),
    ("absmax", (4, 3, 112, 112), False, _NCHW, True),
    ("absmax", (32, 3, 112, 112), False, _NCHW, False),
    ("absmax", (64, 3, 224, 224), False, _NCHW, False),
    ("absmax", (32, 3, 112, 112), True, _NCHW, False),
)

CASES = [
    Case(
        "gradient_attention_map",
        f"{reduce} {'x'.join(map(str, shape))}{' channels_last' if layout is _NHWC else ''}",
        "forward+backward" if backward else "forward",
        partial(_setup, reduce, shape, backward, layout),
        quick,
    )
    for reduce, shape, backward, layout, quick in _CASES
]


def bench_gradient_attention(compare, case):
    """Collected by pytest; `facekernels bench` reads CASES."""
    compare(case)
