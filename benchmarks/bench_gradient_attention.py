"""gradient_attention_map against eager PyTorch in its best forms and torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.harness import OURS, Case, Workload, forward_backward
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
    return torch.relu(torch.bmm(weights, features.flatten(2))).unflatten(2, features.shape[2:])


def _setup(reduce: str, shape: tuple[int, ...], backward: bool, device: torch.device) -> Workload:
    functions: dict[str, Callable[..., Tensor]]
    count = 2 if reduce == "gradcam" else 1
    if count == 1:
        functions = {
            OURS: ops.gradient_attention_map,
            "eager": _absmax,
            "vector_norm": _absmax_norm,
            "torch.compile": peers.compiled(_absmax),
        }
    else:
        functions = {
            OURS: partial(ops.gradient_attention_map, reduce="gradcam"),
            "eager": _gradcam,
            "bmm": _gradcam_bmm,
            "torch.compile": peers.compiled(_gradcam),
        }
    oracle: Callable[..., Tensor] = partial(reference.gradient_attention_map, reduce=reduce)
    if backward:
        functions = {n: forward_backward(f, list(range(count))) for n, f in functions.items()}
        oracle = forward_backward(oracle, list(range(count)))
    batch, channels, height, width = shape

    def make_inputs() -> tuple[Tensor, ...]:
        inputs = tuple(
            torch.randn(shape, device=device, requires_grad=backward) for _ in range(count)
        )
        return (
            (*inputs, torch.randn(batch, 1, height, width, device=device)) if backward else inputs
        )

    size = 4 * batch * height * width * (channels * count * (3 if backward else 1) + 1)
    return Workload(make_inputs, functions, size, 0, oracle)


_CASES = (
    ("gradcam", (8, 64, 14, 14), False, True),
    ("gradcam", (256, 512, 7, 7), False, False),
    ("gradcam", (64, 128, 56, 56), False, False),
    ("gradcam", (64, 128, 14, 14), True, False),
    ("absmax", (4, 3, 112, 112), False, True),
    ("absmax", (32, 3, 112, 112), False, False),
    ("absmax", (64, 3, 224, 224), False, False),
    ("absmax", (32, 3, 112, 112), True, False),
)

CASES = [
    Case(
        "gradient_attention_map",
        f"{reduce} {'x'.join(map(str, shape))}",
        "forward+backward" if backward else "forward",
        partial(_setup, reduce, shape, backward),
        quick,
    )
    for reduce, shape, backward, quick in _CASES
]


def bench_gradient_attention(compare, case):
    """Collected by pytest; `facekernels bench` reads CASES."""
    compare(case)
