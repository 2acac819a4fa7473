"""The SGA ops against eager PyTorch in its best forms and torch.compile.

The steps update in place; here every implementation returns new tensors, ours by cloning delta and
the accumulator first, so that all rounds see the same values. That is counted against us.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks.harness import OURS, Case, Workload
from benchmarks.peers.common import compiled
from facekernels import ops, reference

_EPSILON, _STEP = 10 / 255, 1 / 255
_ROWS = 250  # the large batch that mini-batches are drawn from


def _images(batch: int, size: int, device: torch.device) -> tuple[Tensor, ...]:
    images = torch.randint(0, 256, (_ROWS, 3, size, size), dtype=torch.uint8, device=device)
    delta = (torch.rand(3, size, size, device=device) * 2 - 1) * _EPSILON
    index = torch.randperm(_ROWS, device=device)[:batch]
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], device=device)
    return images, delta, index, mean, std


# ---- uap_apply


def _apply(images: Tensor, delta: Tensor, index: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    x = (images[index] / 255 + delta).clamp(0, 1)
    return (x - mean[:, None, None]) / std[:, None, None]


def _setup_apply(batch: int, size: int, device: torch.device) -> Workload:
    def oracle(images: Tensor, delta: Tensor, index: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        return reference.uap_apply(images, delta[None], mean, std, index)[0]

    pixels = batch * 3 * size * size
    return Workload(
        partial(_images, batch, size, device),
        {
            OURS: lambda x, d, i, m, s: ops.uap_apply(x, d, m, s, i),
            "eager": _apply,
            "torch.compile": compiled(_apply),
        },
        pixels * 5 + 4 * 3 * size * size,
        0,
        oracle,
    )


# ---- the inner step


def _gradient_inputs(batch: int, size: int, device: torch.device) -> tuple[Tensor, ...]:
    images, delta, index, _, std = _images(batch, size, device)
    shape = (batch, 3, size, size)
    # Multiples of 1/256: every sum is exact, so that no sign depends on the order.
    grad = torch.randint(-256, 257, shape, device=device).float() / 256
    return grad, images, delta, torch.zeros_like(delta), index, std


def _update(delta: Tensor, accumulator: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    return (delta + _STEP * g.sign()).clamp(-_EPSILON, _EPSILON), accumulator + g


def _inner(
    grad: Tensor, images: Tensor, delta: Tensor, accumulator: Tensor, index: Tensor, std: Tensor
) -> tuple[Tensor, Tensor]:
    """The clamp's mask from the images, as ours does."""
    x = images[index] / 255 + delta
    passing = torch.where((x >= 0) & (x <= 1), grad, 0)
    return _update(delta, accumulator, passing.mean(0) / std[:, None, None])


def _inner_autograd(
    grad: Tensor, images: Tensor, delta: Tensor, accumulator: Tensor, index: Tensor, std: Tensor
) -> tuple[Tensor, Tensor]:
    """What a plain attack loop does: build the batch, differentiate it, step."""
    leaf = delta.detach().requires_grad_()
    out = (images[index] / 255 + leaf).clamp(0, 1) / std[:, None, None]
    (g,) = torch.autograd.grad(out, leaf, grad)
    return _update(delta, accumulator, g / len(grad))


def _inner_ours(
    grad: Tensor, images: Tensor, delta: Tensor, accumulator: Tensor, index: Tensor, std: Tensor
) -> tuple[Tensor, Tensor]:
    delta, accumulator = delta.clone(), accumulator.clone()
    ops.sga_inner_step_(
        grad, images, delta, accumulator, index=index, std=std, step=_STEP, epsilon=_EPSILON
    )
    return delta, accumulator


def _setup_inner(batch: int, size: int, device: torch.device) -> Workload:
    def oracle(
        grad: Tensor, images: Tensor, delta: Tensor, accumulator: Tensor, index: Tensor, std: Tensor
    ) -> tuple[Tensor, ...]:
        results = reference.sga_inner_step(
            grad[None], images, delta[None], accumulator[None], _STEP, _EPSILON, index, std
        )
        return tuple(r[0] for r in results)

    plane = 3 * size * size
    return Workload(
        partial(_gradient_inputs, batch, size, device),
        {
            OURS: _inner_ours,
            "eager": _inner,
            "eager autograd": _inner_autograd,
            "torch.compile": compiled(_inner),
        },
        5 * batch * plane + 16 * plane,
        0,
        oracle,
    )


# ---- the outer step


def _outer_inputs(size: int, device: torch.device) -> tuple[Tensor, ...]:
    _, delta, _, _, _ = _images(1, size, device)
    accumulator = torch.randn(3, size, size, device=device)
    return delta, accumulator, torch.randn(3, size, size, device=device) * 1e-4


def _outer(delta: Tensor, accumulator: Tensor, velocity: Tensor) -> tuple[Tensor, Tensor]:
    velocity = 0.9 * velocity + accumulator / accumulator.abs().sum()
    return (delta + _STEP * velocity.sign()).clamp(-_EPSILON, _EPSILON), velocity


def _outer_ours(delta: Tensor, accumulator: Tensor, velocity: Tensor) -> tuple[Tensor, Tensor]:
    delta, accumulator, velocity = delta.clone(), accumulator.clone(), velocity.clone()
    ops.sga_outer_step_(delta, accumulator, velocity, step=_STEP, epsilon=_EPSILON, momentum=0.9)
    return delta, velocity


def _setup_outer(size: int, device: torch.device) -> Workload:
    def oracle(delta: Tensor, accumulator: Tensor, velocity: Tensor) -> tuple[Tensor, ...]:
        new_delta, new_velocity = reference.sga_outer_step(
            delta[None], accumulator[None], velocity[None], _STEP, _EPSILON, 0.9
        )
        assert new_velocity is not None
        return new_delta[0], new_velocity[0]

    return Workload(
        partial(_outer_inputs, size, device),
        {OURS: _outer_ours, "eager": _outer, "torch.compile": compiled(_outer)},
        4 * 6 * 3 * size * size,
        0,
        oracle,
    )


# ---- stored gradients


def _stored(samples: int, size: int, device: torch.device) -> tuple[Tensor, ...]:
    _, delta, _, _, _ = _images(1, size, device)
    grads = torch.randint(-256, 257, (samples, 3, size, size), device=device).float() / 256
    return grads, delta


def _aggregate(grads: Tensor, delta: Tensor) -> Tensor:
    return (delta + _STEP * grads.mean(0).sign()).clamp(-_EPSILON, _EPSILON)


def _setup_aggregate(samples: int, size: int, device: torch.device) -> Workload:
    def oracle(grads: Tensor, delta: Tensor) -> Tensor:
        return reference.sga_aggregate(grads[None, None], delta[None], _STEP, _EPSILON)[0]

    return Workload(
        partial(_stored, samples, size, device),
        {
            OURS: lambda g, d: ops.sga_aggregate(g, d, step=_STEP, epsilon=_EPSILON),
            "eager": _aggregate,
            "torch.compile": compiled(_aggregate),
        },
        4 * (samples + 2) * 3 * size * size,
        0,
        oracle,
    )


CASES = [
    Case("uap_apply", "10x3x224x224", "forward", partial(_setup_apply, 10, 224), True),
    Case("uap_apply", "64x3x112x112", "forward", partial(_setup_apply, 64, 112)),
    Case("sga_inner_step_", "4x3x32x32", "update", partial(_setup_inner, 4, 32), True),
    Case("sga_inner_step_", "10x3x224x224", "update", partial(_setup_inner, 10, 224)),
    Case("sga_inner_step_", "64x3x112x112", "update", partial(_setup_inner, 64, 112)),
    Case("sga_outer_step_", "3x224x224", "momentum", partial(_setup_outer, 224), True),
    Case("sga_aggregate", "16x3x32x32", "forward", partial(_setup_aggregate, 16, 32), True),
    Case("sga_aggregate", "100x3x224x224", "forward", partial(_setup_aggregate, 100, 224)),
]


def bench_sga(compare, case):
    """Collected by pytest; `facekernels bench` reads CASES."""
    compare(case)
