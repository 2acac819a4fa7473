"""Plain PyTorch of the `sga` family: the definition every back end follows to the last bit.

Sums run over samples in order, one addition at a time, because the sign of a sum near zero depends
on the order. Everything takes delta as ``[U, C, H, W]``; the in-place steps return new tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor

_NORM_LANES = 64
_NORM_CHUNK = 1024


def _per_channel(values: Tensor) -> Tensor:
    return values[:, None, None]


def perturbed(images: Tensor, delta: Tensor, index: Tensor | None) -> Tensor:
    """``images[index] + delta`` before the clamp, [U, b, C, H, W]."""
    x = images.to(delta.dtype) / 255 if images.dtype is torch.uint8 else images
    if index is None:
        return x + delta.unsqueeze(1)
    return x[index] + delta.unsqueeze(1)  # [b] -> [b, C, H, W], [U, b] -> [U, b, C, H, W]


def uap_apply(
    images: Tensor,
    delta: Tensor,
    mean: Tensor | None = None,
    std: Tensor | None = None,
    index: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Images [N, C, H, W], delta [U, C, H, W], index [b] or [U, b] -> [U, b, C, H, W]."""
    out = perturbed(images, delta, index).clamp(0, 1)
    if mean is not None:
        out = out - _per_channel(mean)
    if std is not None:
        out = out / _per_channel(std)
    return out.to(out_dtype or delta.dtype)


def uap_apply_backward(
    d_out: Tensor,
    images: Tensor,
    delta: Tensor,
    std: Tensor | None,
    index: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Gradients of `uap_apply` for images and delta, themselves differentiable."""
    v = perturbed(images, delta, index)
    d = torch.where((v >= 0) & (v <= 1), d_out.to(delta.dtype), 0)
    if std is not None:
        d = d / _per_channel(std)
    if index is None:
        return d.sum(0), d.sum(1)
    rows = index.expand(d.shape[:2]).flatten()
    return torch.zeros_like(images).index_add(0, rows, d.flatten(0, 1)), d.sum(1)


def sign_step(delta: Tensor, g: Tensor, step: float, epsilon: float) -> Tensor:
    """``clamp(delta + step * sign(g))``; torch.sign of a NaN is 0."""
    return (delta + step * torch.sign(g)).clamp(-epsilon, epsilon)


def sga_inner_step(
    grad: Tensor,
    images: Tensor,
    delta: Tensor,
    accumulator: Tensor,
    step: float,
    epsilon: float,
    index: Tensor | None = None,
    std: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Grad [U, b, C, H, W] at the output of `uap_apply` -> the new (delta, accumulator)."""
    v = perturbed(images, delta, index)
    passing = torch.where((v >= 0) & (v <= 1), grad.to(delta.dtype), 0)
    total = torch.zeros_like(delta)
    for sample in passing.unbind(1):
        total = total + sample
    count = torch.tensor(grad.shape[1], dtype=delta.dtype, device=delta.device)
    scale = 1 / (count if std is None else count * _per_channel(std))
    g = total * scale
    return sign_step(delta, g, step, epsilon), accumulator + g


def _pairwise(lanes: Tensor) -> Tensor:
    """Sum over the last dimension, a power of two: the halves are added, then their halves, ..."""
    while lanes.shape[-1] > 1:
        low, high = lanes.chunk(2, -1)
        lanes = low + high
    return lanes[..., 0]


def _lane_sum(values: Tensor) -> Tensor:
    """Sum over the last dimension: lane j adds values j, j + 64, ... and the lanes are added."""
    rows = torch.nn.functional.pad(values, (0, -values.shape[-1] % _NORM_LANES))
    rows = rows.unflatten(-1, (-1, _NORM_LANES))
    lanes = torch.zeros_like(rows[..., 0, :])
    for row in rows.unbind(-2):
        lanes = lanes + row
    return _pairwise(lanes)


def l1_norm(values: Tensor) -> Tensor:
    """L1 norm of every ``values[u]``, in the order of the kernels: chunks, lanes, pairs."""
    flat = values.abs().flatten(1)
    chunks = torch.nn.functional.pad(flat, (0, -flat.shape[1] % _NORM_CHUNK))
    return _lane_sum(_lane_sum(chunks.unflatten(1, (-1, _NORM_CHUNK))))


def sga_outer_step(
    delta: Tensor,
    accumulator: Tensor,
    velocity: Tensor | None,
    step: float,
    epsilon: float,
    momentum: float = 0.0,
) -> tuple[Tensor, Tensor | None]:
    """Delta and accumulator [U, C, H, W] -> the new (delta, velocity)."""
    if velocity is None:
        return sign_step(delta, accumulator, step, epsilon), None
    norm = l1_norm(accumulator)[:, None, None, None]
    usable = (norm > 0) & norm.isfinite()
    velocity = momentum * velocity + torch.where(usable, accumulator / norm, 0)
    return sign_step(delta, velocity, step, epsilon), velocity


def sga_aggregate(
    grads: Tensor, delta: Tensor, step: float, epsilon: float, weights: Tensor | None = None
) -> Tensor:
    """Grads [U, E, M, C, H, W], weights [E] -> the new delta [U, C, H, W]."""
    total = torch.zeros_like(delta)
    for e, member in enumerate(grads.to(delta.dtype).unbind(1)):
        sums = torch.zeros_like(delta)
        for sample in member.unbind(1):
            sums = sums + sample
        total = total + (sums if weights is None else weights[e] * sums)
    return sign_step(delta, total, step, epsilon)
