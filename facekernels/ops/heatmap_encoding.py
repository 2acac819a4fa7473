"""Training targets from keypoints: the encoders that belong to the decoders. Plain PyTorch.

All but the disc of `encode_udp_combined` are products of a line along x and a line along y, so the
exponentials are taken for H + W cells and the map itself is written once.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from facekernels import _check
from facekernels.ops.heatmap import _odd
from facekernels.ops.keypoints import size_pair
from facekernels.reference.heatmap import blur, gaussian_taps

_MAX_TAPS = 65  # as in the decoders


class Encoded(NamedTuple):
    """Targets of one batch."""

    heatmaps: Tensor
    """``[B, K, H, W]`` (``[B, 3 K, H, W]`` for "udp_combined")."""
    weights: Tensor
    """``[B, K]``: `visible` of the keypoints that are drawn (1 without it), 0 for the others."""


class EncodedSimCC(NamedTuple):
    """Targets of one batch for SimCC."""

    x: Tensor
    """``[B, K, Nx]``."""
    y: Tensor
    """``[B, K, Ny]``."""
    weights: Tensor
    """``[B, K]``: `visible` of the keypoints that are drawn (1 without it), 0 for the others."""


def encode_gaussian(
    xy: Tensor,
    size: tuple[int, int],
    visible: Tensor | None = None,
    *,
    sigma: float = 2.0,
) -> Encoded:
    """Gaussians around the nearest pixel, cut to a square patch.

    Equivalent for one keypoint to::

        cx, cy = floor(x + 0.5), floor(y + 0.5)
        dx, dy = arange(W) - cx, arange(H)[:, None] - cy
        heatmap = exp(-(dx**2 + dy**2) / (2 * sigma**2))
        heatmap[(abs(dx) > floor(3 * sigma)) | (abs(dy) > floor(3 * sigma))] = 0

    The target of SimpleBaseline and HRNet. Where 3 sigma is not a whole number, or x or y + 0.5 is
    negative, public code truncates and its patch is a pixel off; here it is symmetric and floor is
    meant. Where a patch ends exactly one pixel before the map, public code gives an empty
    map weight 1; here 0.

    Args:
        xy: ``[B, K, 2]`` in heatmap pixels (0 is the centre of the first), float32, float64,
            float16 or bfloat16. B = 0 and K = 0 give empty results.
        size: ``(W, H)`` of the heatmaps, positive.
        visible: ``[B, K]``, bool, integer or floating point: keypoints below 0.5 (or NaN) are not
            drawn, the values of the others become the weights. None: all are, with weight 1. (For
            COCO's flags 0, 1, 2 pass ``flags > 0``.)
        sigma: in heatmap pixels, positive.

    Returns:
        `Encoded`: heatmaps ``[B, K, H, W]`` in [0, 1] and weights ``[B, K]``, both float32
        (float64 for float64 xy). A keypoint that is not visible or not finite, or whose patch lies
        wholly outside the map, has an empty map and weight 0. No gradient: the centre is rounded.

    Raises:
        TypeError: xy is not a floating-point tensor, visible is complex, or size not two ints.
        ValueError: a shape, device or number does not fit.

    Source: Xiao et al., arXiv 1804.06208.
    """
    return _patch_gaussian(xy, size, visible, sigma, rounded=True)


def encode_unbiased(
    xy: Tensor,
    size: tuple[int, int],
    visible: Tensor | None = None,
    *,
    sigma: float = 2.0,
) -> Encoded:
    """Gaussians around the keypoint itself, over the whole map.

    Equivalent for one keypoint to::

        dx, dy = arange(W) - x, arange(H)[:, None] - y
        heatmap = exp(-(dx**2 + dy**2) / (2 * sigma**2))

    Args:
        xy: see `encode_gaussian`, as for size, visible and sigma.
        size: ``(W, H)`` of the heatmaps.
        visible: ``[B, K]`` or None.
        sigma: in heatmap pixels, positive.

    Returns:
        `Encoded` as of `encode_gaussian`; differentiable in xy. A keypoint has an empty map and
        weight 0 unless ``-(3 * sigma + 1) <= x < W + 3 * sigma``, and y likewise.

    Raises:
        TypeError: see `encode_gaussian`.
        ValueError: see `encode_gaussian`.

    Source: DARK (Zhang et al., arXiv 1910.06278).
    """
    width, height = _checked(xy, size, visible)
    _positive("sigma", sigma)
    point, weights = _visible(xy, visible)
    drawn = weights.new_ones((), dtype=torch.bool)
    for c, n in zip(point.unbind(-1), (width, height), strict=True):
        drawn = drawn & (c >= -(3 * sigma + 1)) & (c < n + 3 * sigma)
    x, y, weights = _only(drawn, point, weights)
    return Encoded(_outer(_line(x, width, sigma), _line(y, height, sigma), weights), weights)


def encode_udp(
    xy: Tensor,
    size: tuple[int, int],
    visible: Tensor | None = None,
    *,
    sigma: float = 2.0,
) -> Encoded:
    """Gaussians around the keypoint itself, cut to a square patch around the nearest pixel.

    Equivalent for one keypoint to::

        cx, cy = floor(x + 0.5), floor(y + 0.5)
        column, row = arange(W), arange(H)[:, None]
        heatmap = exp(-((column - x)**2 + (row - y)**2) / (2 * sigma**2))
        r = floor(3 * sigma)
        heatmap[(abs(column - cx) > r) | (abs(row - cy) > r)] = 0

    Keypoints in pixels of the network's input of w x h are brought to the map with ``(W - 1) / (w -
    1)`` and ``(H - 1) / (h - 1)``, the inverse of ``transform_keypoints(..., align="corners")``.

    Args:
        xy: see `encode_gaussian`, as for size, visible and sigma.
        size: ``(W, H)`` of the heatmaps.
        visible: ``[B, K]`` or None.
        sigma: in heatmap pixels, positive.

    Returns:
        `Encoded` as of `encode_gaussian`; differentiable in xy (inside the patch).

    Raises:
        TypeError: see `encode_gaussian`.
        ValueError: see `encode_gaussian`.

    Source: UDP (Huang et al., arXiv 1911.07524).
    """
    return _patch_gaussian(xy, size, visible, sigma, rounded=False)


def encode_udp_combined(
    xy: Tensor,
    size: tuple[int, int],
    visible: Tensor | None = None,
    *,
    radius_factor: float = 0.0546875,
) -> Encoded:
    """A disc around each keypoint, and the offsets to the keypoint inside it.

    Equivalent for one keypoint to::

        radius = radius_factor * max(W, H)
        dx, dy = (x - arange(W)) / radius, (y - arange(H)[:, None]) / radius
        disc = dx**2 + dy**2 <= 1
        heatmaps = stack((disc, dx * disc, dy * disc))

    Args:
        xy: see `encode_gaussian`, as for size and visible.
        size: ``(W, H)`` of the heatmaps.
        visible: ``[B, K]`` or None.
        radius_factor: the disc's radius over ``max(W, H)``, positive, as in `decode_heatmaps`.

    Returns:
        `Encoded`: heatmaps ``[B, 3 K, H, W]``, for each joint the disc (0 or 1), the x offset and
        the y offset in units of the radius; weights ``[B, K]``. A keypoint whose disc holds no
        pixel has weight 0 (MMPose gives it 1). The offsets are differentiable in xy.

    Raises:
        TypeError: see `encode_gaussian`.
        ValueError: see `encode_gaussian`.

    Source: UDP (Huang et al., arXiv 1911.07524), as MMPose 1.x does it.
    """
    width, height = _checked(xy, size, visible)
    _positive("radius_factor", radius_factor)
    radius = radius_factor * max(width, height)
    point, weights = _visible(xy, visible)
    x, y = point.unbind(-1)
    dx = ((x.unsqueeze(-1) - _cells(x, width)) / radius).unsqueeze(-2)
    dy = ((y.unsqueeze(-1) - _cells(y, height)) / radius).unsqueeze(-1)
    disc = (dx.square() + dy.square() <= 1) & (weights > 0)[..., None, None]
    weights = weights.where(disc.flatten(2).any(-1), 0)
    maps = (disc.to(dx.dtype), dx.where(disc, 0), dy.where(disc, 0))
    return Encoded(torch.stack(maps, 2).flatten(1, 2), weights)


def encode_megvii(
    xy: Tensor,
    size: tuple[int, int],
    visible: Tensor | None = None,
    *,
    kernel: int = 11,
) -> Encoded:
    """One pixel set, blurred, and scaled to a maximum of 255.

    Equivalent for one keypoint to::

        heatmap = zeros(H, W)
        heatmap[floor(y), floor(x)] = 1
        heatmap = cv2.GaussianBlur(heatmap, (kernel, kernel), 0)
        heatmap *= 255 / heatmap.max()

    The blur mirrors the map at its border, as OpenCV does, so the maximum of a keypoint one or two
    pixels from the border is on the border; MMPose scales the keypoint's own pixel to 255 instead.
    The position is truncated, not rounded: the "megvii" decoder adds half a pixel.

    Args:
        xy: see `encode_gaussian`, as for size and visible.
        size: ``(W, H)`` of the heatmaps.
        visible: ``[B, K]`` or None.
        kernel: taps of the blur, odd, 1 to 65, its sigma as in OpenCV (11: 2.0).

    Returns:
        `Encoded`: heatmaps ``[B, K, H, W]`` in [0, 255]; weights ``[B, K]``. A keypoint outside
        ``[0, W) x [0, H)`` has an empty map and weight 0. No gradient.

    Raises:
        TypeError: see `encode_gaussian`; or kernel is not an int.
        ValueError: see `encode_gaussian`; or kernel is even or out of range.

    Source: CPN (Chen et al., arXiv 1711.07319), MSPN (arXiv 1901.00148).
    """
    width, height = _checked(xy, size, visible)
    _odd(kernel, _MAX_TAPS)
    point, weights = _visible(xy.detach(), visible)
    drawn = weights.new_ones((), dtype=torch.bool)
    for c, n in zip(point.unbind(-1), (width, height), strict=True):
        drawn = drawn & (c >= 0) & (c < n)
    x, y, weights = _only(drawn, point, weights)
    lines = []
    for c, n in ((x, width), (y, height)):
        # Every impulse there is, as maps of one row: mirroring leaves that row as it is.
        impulses = torch.eye(n, dtype=point.dtype, device=point.device).unsqueeze(1)
        blurred = blur(impulses, gaussian_taps(kernel), "reflect101").squeeze(1)
        blurred = blurred / blurred.amax(-1, keepdim=True)
        lines.append(blurred[c.long()])
    return Encoded(_outer(lines[0], 255 * lines[1], weights), weights)


def encode_simcc(
    xy: Tensor,
    size: tuple[int, int],
    visible: Tensor | None = None,
    *,
    sigma: float | tuple[float, float] = 6.0,
    split: float = 2.0,
    normalize: bool = True,
) -> EncodedSimCC:
    """Two one-dimensional Gaussians per joint.

    Equivalent for one keypoint to::

        cx, cy = round(x * split), round(y * split)     # halves to even
        line_x = exp(-(arange(round(W * split)) - cx)**2 / (2 * sigma**2))
        line_y = exp(-(arange(round(H * split)) - cy)**2 / (2 * sigma**2))
        if normalize:
            line_x, line_y = line_x / (sigma * sqrt(2 * pi)), line_y / (sigma * sqrt(2 * pi))

    Args:
        xy: ``[B, K, 2]`` in pixels of the network's input (not of a heatmap); see `encode_gaussian`
            for dtypes and visible.
        size: ``(W, H)`` of the network's input.
        visible: ``[B, K]`` or None.
        sigma: in bins, positive; one number or ``(sigma_x, sigma_y)``.
        split: bins per pixel, positive.
        normalize: divide by the Gaussian's integral. A line that reaches over the border still
            sums to less than 1.

    Returns:
        `EncodedSimCC`: x ``[B, K, round(W * split)]``, y ``[B, K, round(H * split)]`` and weights
        ``[B, K]``, float32 (float64 for float64 xy). A keypoint has empty lines and weight 0
        unless ``-(3 * sigma + 1) <= cx < round(W * split) + 3 * sigma``, and cy likewise. No
        gradient: the centre is rounded.

    Raises:
        TypeError: see `encode_gaussian`.
        ValueError: see `encode_gaussian`; or split leaves no bin.

    Source: SimCC (Li et al., arXiv 2107.03332), as MMPose 1.x does it.
    """
    width, height = _checked(xy, size, visible)
    sigmas = tuple(sigma) if isinstance(sigma, tuple | list) else (sigma, sigma)
    if len(sigmas) != 2:
        raise ValueError(f"sigma must be a number or a pair (sigma_x, sigma_y), got {sigma!r}")
    for s in sigmas:
        _positive("sigma", s)
    _positive("split", split)
    bins = round(width * split), round(height * split)
    if min(bins) < 1:
        raise ValueError(f"split must leave at least 1 bin per axis, got {bins[0]} x {bins[1]}")
    point, weights = _visible(xy.detach(), visible)
    point = torch.round(point * split)
    drawn = weights.new_ones((), dtype=torch.bool)
    for c, n, s in zip(point.unbind(-1), bins, sigmas, strict=True):
        drawn = drawn & (c >= -(3 * s + 1)) & (c < n + 3 * s)
    x, y, weights = _only(drawn, point, weights)
    lines = []
    for c, n, s in zip((x, y), bins, sigmas, strict=True):
        line = _line(c, n, s)
        if normalize:
            line = line / (s * math.sqrt(2 * math.pi))
        lines.append(line.where((weights > 0).unsqueeze(-1), 0))
    return EncodedSimCC(lines[0], lines[1], weights)


def _patch_gaussian(
    xy: Tensor, size: tuple[int, int], visible: Tensor | None, sigma: float, *, rounded: bool
) -> Encoded:
    width, height = _checked(xy, size, visible)
    _positive("sigma", sigma)
    radius = math.floor(3 * sigma)
    point, weights = _visible(xy.detach() if rounded else xy, visible)
    nearest = torch.floor(point.detach() + 0.5)
    drawn = weights.new_ones((), dtype=torch.bool)
    for c, n in zip(nearest.unbind(-1), (width, height), strict=True):
        drawn = drawn & (c >= -radius) & (c <= n - 1 + radius)
    x, y, weights = _only(drawn, nearest if rounded else point, weights)
    lines = []
    for c, middle, n in zip((x, y), nearest.unbind(-1), (width, height), strict=True):
        inside = (_cells(c, n) - middle.unsqueeze(-1)).abs() <= radius
        lines.append(_line(c, n, sigma).where(inside, 0))
    return Encoded(_outer(lines[0], lines[1], weights), weights)


def _visible(xy: Tensor, visible: Tensor | None) -> tuple[Tensor, Tensor]:
    """Points with (0, 0) for those not to be drawn, and weights, 0 for those."""
    point = xy.to(_check.wide_dtype(xy))
    drawn = point.detach().isfinite().all(-1)
    if visible is None:
        weights = drawn.to(point.dtype)
    else:
        weights = visible.to(point.dtype)
        weights = weights.where(drawn & (weights >= 0.5), 0)
    return point.where((weights > 0).unsqueeze(-1), 0), weights


def _only(drawn: Tensor, point: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x, y and weights, 0 where not drawn: a far point must not overflow in a gradient."""
    x, y = point.where(drawn.unsqueeze(-1), 0).unbind(-1)
    return x, y, weights.where(drawn, 0)


def _cells(like: Tensor, count: int) -> Tensor:
    return torch.arange(count, dtype=like.dtype, device=like.device)


def _line(center: Tensor, count: int, sigma: float) -> Tensor:
    """Centres [B, K] -> Gaussians [B, K, count] of maximum 1."""
    return torch.exp(((_cells(center, count) - center.unsqueeze(-1)) / sigma).square() * -0.5)


def _outer(line_x: Tensor, line_y: Tensor, weights: Tensor) -> Tensor:
    """[B, K, W] and [B, K, H] -> [B, K, H, W], zero where the weight is."""
    line_y = line_y.where((weights > 0).unsqueeze(-1), 0)
    return line_y.unsqueeze(-1) * line_x.unsqueeze(-2)


def _checked(xy: Tensor, size: tuple[int, int], visible: Tensor | None) -> tuple[int, int]:
    _check.floating("xy", xy)
    if xy.ndim != 3 or xy.shape[2] != 2:
        raise ValueError(f"xy must be [B, K, 2], got shape {_check.shape_of(xy)}")
    if visible is not None:
        _check.tensor("visible", visible)
        _check.same_device("visible", visible, "xy", xy)
        if visible.is_complex():
            raise TypeError(f"visible must be real, got {str(visible.dtype)[6:]}")
        _check.shape("visible", visible, tuple(xy.shape[:2]), "[B, K]")
    return size_pair("size", size)


def _positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value}")
