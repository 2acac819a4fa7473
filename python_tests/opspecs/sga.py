"""Stochastic gradient aggregation: applying a perturbation, its steps, and the aggregate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from facekernels import ops, reference
from opspecs.spec import OpSpec, Sample, channels_last, sliced


def _sga_inputs(
    gen: torch.Generator, perturbations: int, batch: int, *sizes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Images, delta, gradients whose sums stay away from 0 or are exactly 0.

    Values are multiples of 1/256, so that 16-bit formats hold them and every sum is exact.
    """

    def grid(*shape: int) -> Tensor:
        return torch.randint(-256, 257, shape, generator=gen).double() / 256

    images = grid(batch + 2, *sizes).abs()
    delta = grid(perturbations, *sizes) / 16
    grad = grid(perturbations, batch, *sizes)
    grad = torch.where(grad.sum(1, keepdim=True).abs() < 1 / 8, 0, grad)
    return images, delta, grad


_SGA_SHAPES = {
    # U, b, C, H, W: odd and tiny planes, one channel, more samples than one group of rows, a plane
    # longer than a block.
    "face": (1, 5, 3, 8, 8),
    "odd": (1, 3, 3, 5, 7),
    "several": (2, 6, 1, 9, 4),
    "one_pixel": (2, 1, 2, 1, 1),
    "large": (2, 9, 3, 61, 47),
}


def _uap_samples() -> Iterator[Sample]:
    gen = torch.Generator().manual_seed(6)
    for name, (u, b, *sizes) in _SGA_SHAPES.items():
        images, delta, _ = _sga_inputs(gen, u, b, *sizes)
        mean, std = (torch.rand(sizes[0], generator=gen).double() + 0.3 for _ in range(2))
        index = torch.randint(0, b + 2, (u, b), generator=gen)
        small = images.numel() < 1000
        wide = (0, 1, 2, 3)
        yield Sample(name, (images, delta, mean, std, index), {}, small, wide)
        if small:
            yield Sample(f"{name}-all_rows", (images, delta[0]), {}, small, wide)
            yield Sample(f"{name}-bytes", ((images * 255).byte(), delta), {}, small, wide)
    yield Sample("sliced", (sliced(images), delta, mean, std, index[0]), {}, False, wide)
    yield Sample("channels_last", (channels_last(images), delta), {}, False, wide)
    yield Sample("empty", (images, delta, mean, std, index[:, :0]), {}, True, wide)


def _inner_samples() -> Iterator[Sample]:
    gen = torch.Generator().manual_seed(7)
    for name, (u, b, *sizes) in _SGA_SHAPES.items():
        images, delta, grad = _sga_inputs(gen, u, b, *sizes)
        std = torch.tensor([0.5, 0.25, 1.0])[: sizes[0]].double()
        index = torch.randint(0, b + 2, (u, b), generator=gen)
        accumulator = torch.randn(delta.shape, generator=gen).double()
        small = images.numel() < 1000
        step = {"step": 1 / 128, "epsilon": 1 / 16}
        wide = (1, 2, 3, 4, 5)
        for label, source in {"": images, "-bytes": (images * 255).byte()}.items():
            arguments = (grad, source, delta, accumulator, std, index)
            yield Sample(name + label, arguments, step, small, wide)
        if u == 1:
            arguments = (grad[0], images[:b], delta[0], accumulator[0])
            yield Sample(f"{name}-all_rows", arguments, step, small, wide)
    arguments = (channels_last(grad), images, delta, accumulator, std, index)
    yield Sample("channels_last", arguments, step, False, wide)
    yield Sample("sliced", (sliced(grad), *arguments[1:]), step, False, wide)


def _outer_samples() -> Iterator[Sample]:
    gen = torch.Generator().manual_seed(8)
    for name, (u, _, *sizes) in _SGA_SHAPES.items():
        _, delta, grad = _sga_inputs(gen, u, 2, *sizes)
        velocity = torch.randn(delta.shape, generator=gen).double() / 16
        accumulator = grad.sum(1)
        step = {"step": 1 / 128, "epsilon": 1 / 16}
        small = delta.numel() < 1000
        wide = (0, 1, 2)
        yield Sample(name, (accumulator, delta), step, small, wide)
        with_momentum = {**step, "momentum": 0.9}
        yield Sample(f"{name}-momentum", (accumulator, delta, velocity), with_momentum, small, wide)
        still = (torch.zeros_like(delta), delta, velocity)
        yield Sample(f"{name}-still", still, with_momentum, small, wide)


def _aggregate_samples() -> Iterator[Sample]:
    gen = torch.Generator().manual_seed(9)
    for name, (u, b, *sizes) in _SGA_SHAPES.items():
        _, delta, grad = _sga_inputs(gen, u, b, *sizes)
        step = {"step": 1 / 128, "epsilon": 1 / 16}
        small = grad.numel() < 1500
        yield Sample(name, (grad, delta), step, small, (1,))
        if u == 1:
            yield Sample(f"{name}-single", (grad[0], delta[0]), step, small, (1,))
        ensemble = torch.stack((grad, grad.flip(1)), 1).unsqueeze(3)  # [U, E, M, 1, C, H, W]
        weights = {**step, "weights": [0.25, 0.75]}
        yield Sample(f"{name}-ensemble", (ensemble, delta), weights, small, (1,))
    yield Sample("channels_last", (channels_last(grad), delta), step, False, (1,))


def _inner_step(
    grad: Tensor,
    images: Tensor,
    delta: Tensor,
    accumulator: Tensor,
    std: Tensor | None = None,
    index: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """`sga_inner_step_` on copies."""
    delta, accumulator = delta.clone(), accumulator.clone()
    ops.sga_inner_step_(grad, images, delta, accumulator, index=index, std=std, **kwargs)
    return delta, accumulator


def _inner_reference(
    grad: Tensor,
    images: Tensor,
    delta: Tensor,
    accumulator: Tensor,
    std: Tensor | None = None,
    index: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, ...]:
    if delta.ndim == 4:
        return reference.sga_inner_step(
            grad, images, delta, accumulator, index=index, std=std, **kwargs
        )
    results = reference.sga_inner_step(
        grad[None], images, delta[None], accumulator[None], index=index, std=std, **kwargs
    )
    return tuple(r[0] for r in results)


def _outer_step(
    accumulator: Tensor, delta: Tensor, velocity: Tensor | None = None, **kwargs: Any
) -> tuple[Tensor, ...]:
    """`sga_outer_step_` on copies."""
    delta, accumulator = delta.clone(), accumulator.clone()
    velocity = None if velocity is None else velocity.clone()
    ops.sga_outer_step_(delta, accumulator, velocity, **kwargs)
    return (delta, accumulator) if velocity is None else (delta, accumulator, velocity)


def _outer_reference(
    accumulator: Tensor, delta: Tensor, velocity: Tensor | None = None, **kwargs: Any
) -> tuple[Tensor, ...]:
    delta, velocity = reference.sga_outer_step(delta, accumulator, velocity, **kwargs)
    cleared = torch.zeros_like(accumulator)
    return (delta, cleared) if velocity is None else (delta, cleared, velocity)


def _uap_reference(images: Tensor, delta: Tensor, *args: Any) -> Tensor:
    if delta.ndim == 4:
        return reference.uap_apply(images, delta, *args)
    return reference.uap_apply(images, delta[None], *args)[0]


def _aggregate_reference(
    grads: Tensor, delta: Tensor, *, weights: list[float] | None = None, **kwargs: Any
) -> Tensor:
    one = delta.ndim == 3
    if one:
        grads, delta = grads[None], delta[None]
    if weights is None:
        return reference.sga_aggregate(grads[:, None], delta, **kwargs)[0 if one else ...]
    vector = torch.tensor(weights, dtype=delta.dtype, device=delta.device)
    return reference.sga_aggregate(grads.flatten(2, 3), delta, weights=vector, **kwargs)


SPECS: tuple[OpSpec, ...] = (
    OpSpec(
        "uap_apply",
        ops.uap_apply,
        _uap_reference,
        _uap_samples,
        differentiable=(1,),
        transforms=False,  # images[index] under vmap needs a batched index
    ),
    OpSpec("sga_inner_step_", _inner_step, _inner_reference, _inner_samples, transforms=False),
    OpSpec("sga_outer_step_", _outer_step, _outer_reference, _outer_samples, transforms=False),
    OpSpec(
        "sga_aggregate",
        ops.sga_aggregate,
        _aggregate_reference,
        _aggregate_samples,
        transforms=False,
    ),
)
