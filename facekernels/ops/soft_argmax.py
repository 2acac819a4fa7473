"""Differentiable peak positions of heatmaps: soft-argmax and the centre of mass around the peak."""

from __future__ import annotations

from math import inf
from typing import Any

import torch
from torch import Tensor

from facekernels import _check
from facekernels._op import Op, launch, use_reference
from facekernels.reference.soft_argmax import (
    local_center_of_mass as reference_center_of_mass,
)
from facekernels.reference.soft_argmax import (
    local_center_of_mass_backward as reference_center_of_mass_backward,
)
from facekernels.reference.soft_argmax import (
    soft_argmax as reference_soft_argmax,
)
from facekernels.reference.soft_argmax import (
    soft_argmax_backward as reference_soft_argmax_backward,
)

_OWN_POSITIONS = frozenset({torch.float32, torch.float64})

_SOFT = Op(
    "soft_argmax_forward(Tensor heatmaps, float beta, bool normalized, Tensor(a!) xy, "
    "Tensor(b!)? stats) -> ()"
)
_SOFT_BACKWARD = Op(
    "soft_argmax_backward(Tensor heatmaps, float beta, bool normalized, Tensor stats, Tensor d_xy, "
    "Tensor(a!) d_heatmaps) -> ()"
)
_CENTER = Op(
    "center_of_mass_forward(Tensor heatmaps, int radius, Tensor(a!) xy, Tensor(b!)? sum, "
    "Tensor(c!)? argmax) -> ()"
)
_CENTER_BACKWARD = Op(
    "center_of_mass_backward(Tensor heatmaps, int radius, Tensor xy, Tensor sum, Tensor argmax, "
    "Tensor d_xy, Tensor(a!) d_heatmaps) -> ()"
)


def soft_argmax(heatmaps: Tensor, beta: float = 100.0, *, normalized: bool = False) -> Tensor:
    """Expected position under the softmax of each map, in one read of the map.

    Equivalent to::

        p = torch.softmax(beta * heatmaps.flatten(2), -1).view_as(heatmaps)
        x, y = torch.arange(W), torch.arange(H)[:, None]
        return torch.stack(((p * x).sum((2, 3)), (p * y).sum((2, 3))), -1)

    The backward pass keeps four numbers per map and reads the map again; the softmax is never
    stored. Twice differentiable.

    Args:
        heatmaps: ``[B, K, H, W]``, float32, float64, float16 or bfloat16, any strides. B = 0 and
            K = 0 give empty results; H and W must be at least 1.
        beta: inverse temperature, positive and finite. A uniform map gives its centre
            ``((W-1)/2, (H-1)/2)`` for every beta; the larger beta, the nearer to the argmax.
        normalized: positions in [-1, 1], the centres of the first and the last column or row
            (0 for an axis of one pixel), instead of pixels in [0, W-1] x [0, H-1].

    Returns:
        ``[B, K, 2]`` positions (x, y): float64 for float64 maps, else float32, because half
        precision cannot hold sub-pixel positions. Autocast does not change that.

    A map with a NaN, with +inf, or with nothing but -inf gives NaN; a single -inf weighs nothing.

    Raises:
        TypeError: heatmaps is not a floating-point tensor, or beta is not a number.
        ValueError: a shape or device does not fit, or beta is not positive and finite.

    Source: integral pose regression (Sun et al., arXiv 1711.08229, equation 3).
    """
    _check_maps(heatmaps)
    try:
        usable = 0 < beta < inf
    except TypeError:
        raise TypeError(f"beta must be a number, got {type(beta).__name__}") from None
    if not usable:
        raise ValueError(f"beta must be positive and finite, got {beta}")
    if use_reference():
        return reference_soft_argmax(heatmaps, beta, normalized=normalized)
    if heatmaps.requires_grad and torch.is_grad_enabled():
        positions: Tensor = _SoftArgmax.apply(heatmaps, beta, normalized)
        return positions
    xy = _empty(heatmaps, 2)
    launch(_SOFT, _check.resolve_neg(heatmaps), beta, normalized, xy, None)
    return xy


def local_center_of_mass(heatmaps: Tensor, radius: int = 3) -> Tensor:
    """Mean position around the maximum of each map, weighted by the positive part of the map.

    Equivalent to::

        px, py = first maximum of the map, constant for gradients
        near = (abs(x - px) <= radius) & (abs(y - py) <= radius)
        w = torch.where(near, torch.relu(heatmaps), 0)
        xy = torch.stack(((w * x).sum((2, 3)), (w * y).sum((2, 3))), -1)
        return xy / w.sum((2, 3))[..., None]

    The gradient is zero outside the window and where the map is not positive. Twice differentiable.

    Args:
        heatmaps: ``[B, K, H, W]``, float32, float64, float16 or bfloat16, any strides. B = 0 and
            K = 0 give empty results; H and W must be at least 1.
        radius: half the window's side in pixels, at least 0; the window has
            ``2 * radius + 1`` columns and rows and is clipped at the borders.

    Returns:
        ``[B, K, 2]`` positions (x, y) in pixels: float64 for float64 maps, else float32. A window
        without a positive value gives the maximum's own position and no gradient.

    A NaN never is the maximum, but a NaN or +inf inside the window makes the position NaN.

    Raises:
        TypeError: heatmaps is not a floating-point tensor, or radius is not an integer.
        ValueError: a shape or device does not fit, or radius is negative.
    """
    _check_maps(heatmaps)
    if not isinstance(radius, int):
        raise TypeError(f"radius must be an integer, got {type(radius).__name__}")
    if radius < 0:
        raise ValueError(f"radius must be at least 0, got {radius}")
    radius = min(radius, 2**31)
    if use_reference():
        return reference_center_of_mass(heatmaps, radius)
    if heatmaps.requires_grad and torch.is_grad_enabled():
        positions: Tensor = _CenterOfMass.apply(heatmaps, radius)
        return positions
    xy = _empty(heatmaps, 2)
    launch(_CENTER, _check.resolve_neg(heatmaps), radius, xy, None, None)
    return xy


def _check_maps(heatmaps: Tensor) -> None:
    _check.floating("heatmaps", heatmaps)
    shape = heatmaps.shape
    if len(shape) != 4:
        raise ValueError(f"heatmaps must be [B, K, H, W], got shape {_check.shape_of(heatmaps)}")
    if shape[2] == 0 or shape[3] == 0:
        raise ValueError(f"heatmaps must be at least 1 x 1, got {shape[2]} x {shape[3]}")


def _empty(heatmaps: Tensor, *last: int) -> Tensor:
    """Uninitialised ``[B, K, *last]`` in the dtype of positions."""
    batch, channels = heatmaps.shape[:2]
    if heatmaps.dtype in _OWN_POSITIONS:  # new_empty without keywords is the shortest way there is
        return heatmaps.new_empty(batch, channels, *last)
    return heatmaps.new_empty((batch, channels, *last), dtype=torch.float32)


class _SoftArgmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, heatmaps: Tensor, beta: float, normalized: bool) -> Tensor:
        xy, stats = _empty(heatmaps, 2), _empty(heatmaps, 4)
        heatmaps = _check.resolve_neg(heatmaps)
        launch(_SOFT, heatmaps, beta, normalized, xy, stats)
        ctx.save_for_backward(heatmaps, stats)
        ctx.beta, ctx.normalized = beta, normalized
        return xy

    @staticmethod
    def backward(ctx: Any, d_xy: Tensor) -> tuple[Tensor | None, ...]:
        heatmaps, stats = ctx.saved_tensors
        if torch.is_grad_enabled():
            d = reference_soft_argmax_backward(heatmaps, ctx.beta, ctx.normalized, d_xy)
            return d, None, None
        d = torch.empty(heatmaps.shape, dtype=heatmaps.dtype, device=heatmaps.device)
        d_xy = _check.resolve_neg(d_xy).contiguous()
        launch(_SOFT_BACKWARD, heatmaps, ctx.beta, ctx.normalized, stats, d_xy, d)
        return d, None, None


class _CenterOfMass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, heatmaps: Tensor, radius: int) -> Tensor:
        xy, total = _empty(heatmaps, 2), _empty(heatmaps)
        argmax = torch.empty(total.shape, dtype=torch.int32, device=heatmaps.device)
        heatmaps = _check.resolve_neg(heatmaps)
        launch(_CENTER, heatmaps, radius, xy, total, argmax)
        ctx.save_for_backward(heatmaps, xy, total, argmax)
        ctx.radius = radius
        return xy

    @staticmethod
    def backward(ctx: Any, d_xy: Tensor) -> tuple[Tensor | None, ...]:
        heatmaps, xy, total, argmax = ctx.saved_tensors
        if torch.is_grad_enabled():
            return reference_center_of_mass_backward(heatmaps, ctx.radius, d_xy), None
        d = torch.empty(heatmaps.shape, dtype=heatmaps.dtype, device=heatmaps.device)
        d_xy = _check.resolve_neg(d_xy).contiguous()
        launch(_CENTER_BACKWARD, heatmaps, ctx.radius, xy, total, argmax, d_xy, d)
        return d, None
