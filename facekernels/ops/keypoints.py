"""What the decoders return, and what is done around them: the flip test before, and the way back
to the image after. Plain PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from facekernels import _check


class Keypoints(NamedTuple):
    """One keypoint per heatmap."""

    xy: Tensor
    """``[B, K, 2]``, x then y, in heatmap pixels (0 is the centre of the first)."""
    score: Tensor
    """``[B, K]``."""
    valid: Tensor
    """``[B, K]`` bool: whether there is a keypoint."""


def flip_average(
    heatmaps: Tensor,
    flipped: Tensor,
    pairs: Sequence[tuple[int, int]],
    *,
    shift: bool = False,
) -> Tensor:
    """The mean of the heatmaps of an image and of its mirror image (the flip test).

    Equivalent to::

        back = flipped.flip(-1)                         # columns reversed
        for left, right in pairs:                       # and left and right joints exchanged
            back[:, [left, right]] = back[:, [right, left]]
        if shift:                                       # column 0 keeps its own value
            back[..., 1:] = back[..., :-1].clone()
        return (heatmaps + back) / 2

    The shift is for networks whose maps are a stride wide per pixel (``align="size"`` of
    `transform_keypoints`): there the mirror image's map is about one column off. With
    ``align="corners"`` (UDP) it is not needed.

    Args:
        heatmaps: ``[B, K, H, W]``, float32, float64, float16 or bfloat16, of the image.
        flipped: the same shape, dtype and device, of the image with its columns reversed.
        pairs: channels ``(left, right)`` that change places; each channel in one pair at most.
            The other channels stay. The x offsets of "udp_combined" maps also change their sign:
            negate them in `flipped` before.
        shift: move the mirrored map one column to the right.

    Returns:
        ``[B, K, H, W]`` like heatmaps, a new tensor. Differentiable in both maps. A NaN or an
        infinity reaches the cells it is averaged into.

    Raises:
        TypeError: a map is not a floating-point tensor, the dtypes differ, or a channel is not an
            int.
        ValueError: a shape or device does not fit, a channel is out of range or in two pairs.

    Source: Newell et al., arXiv 1603.06937; the shift: SimpleBaseline, arXiv 1804.06208.
    """
    _check.floating("heatmaps", heatmaps)
    if heatmaps.ndim != 4:
        raise ValueError(f"heatmaps must be [B, K, H, W], got shape {_check.shape_of(heatmaps)}")
    _check.floating("flipped", flipped)
    _check.same_device("flipped", flipped, "heatmaps", heatmaps)
    if flipped.dtype is not heatmaps.dtype:
        raise TypeError(
            f"flipped must be {str(heatmaps.dtype)[6:]} like heatmaps, got {str(flipped.dtype)[6:]}"
        )
    _check.shape("flipped", flipped, tuple(heatmaps.shape), "[B, K, H, W]")
    order = _exchanged(pairs, heatmaps.shape[1])
    if pairs:
        # A stack of views: an index tensor would have to be copied to the device first.
        channels = flipped.unbind(1)
        flipped = torch.stack([channels[k] for k in order], 1)
    back = flipped.flip(-1)
    if shift:
        back = torch.cat((back[..., :1], back[..., :-1]), -1)
    return (heatmaps + back) / 2


def transform_keypoints(
    xy: Tensor,
    center: Tensor,
    scale: Tensor,
    heatmap_size: tuple[int, int],
    *,
    align: str = "size",
    rotation: float | Tensor = 0.0,
) -> Tensor:
    """Keypoints from heatmap pixels to the image the crop was taken from.

    Equivalent to (W, H: heatmap_size; R: the rotation by the angle a)::

        R = [[cos a, -sin a], [sin a, cos a]]
        "size":     center + R @ ((xy - (W, H) / 2) * scale / (W, H))
        "corners":  center + R @ ((xy - (W - 1, H - 1) / 2) * (scale - 1) / (W - 1, H - 1))

    ``"size"`` is HRNet's and MMPose's convention: the ratio of the sizes, heatmap pixel 0 at the
    crop's edge ``center - scale / 2``. ``"corners"`` is the unbiased one of UDP: the distances
    between the first and the last pixel centre correspond, so that the centres of the corner
    pixels of the map lie on those of the crop, whose columns are at ``center.x - (scale.x - 1) /
    2`` and on. For a network's whole input of w x h pixels, ``scale = (w, h)`` with ``center =
    (w, h) / 2`` for "size" and ``(w - 1, h - 1) / 2`` for "corners" gives its pixel coordinates.

    Args:
        xy: ``[B, K, 2]`` in heatmap pixels, float32, float64, float16 or bfloat16; as the decoders
            return it. Joints that are not valid are transformed as any point.
        center: ``[B, 2]``, the crop's centre (x, y) in image pixels, floating point.
        scale: ``[B, 2]``, the crop's width and height in image pixels, floating point. (Data sets
            in the style of HRNet store it divided by 200.)
        heatmap_size: ``(W, H)``; at least 2 x 2 for "corners".
        align: ``"size"`` or ``"corners"``.
        rotation: of the crop's axes in degrees, from x to y, which is clockwise on the screen; a
            number or ``[B]``.

    Returns:
        ``[B, K, 2]`` in image pixels, float32 (float64 for float64 xy). Differentiable in xy,
        center, scale and rotation.

    Raises:
        TypeError: xy, center or scale is not a floating-point tensor.
        ValueError: a shape, device, size or name does not fit.

    Source: HRNet (Sun et al., arXiv 1902.09212); UDP (Huang et al., arXiv 1911.07524).
    """
    _check.floating("xy", xy)
    if xy.ndim != 3 or xy.shape[2] != 2:
        raise ValueError(f"xy must be [B, K, 2], got shape {_check.shape_of(xy)}")
    for name, t in (("center", center), ("scale", scale)):
        _check.floating(name, t)
        _check.same_device(name, t, "xy", xy)
        _check.shape(name, t, (xy.shape[0], 2), "[B, 2]")
    width, height = size_pair("heatmap_size", heatmap_size)
    _check.one_of("align", align, ("size", "corners"))
    less = 1 if align == "corners" else 0
    if width <= less or height <= less:
        raise ValueError(
            f"heatmap_size must be at least 2 x 2 for align='corners', got {width} x {height}"
        )
    dtype = _check.wide_dtype(xy)
    x, y = xy.to(dtype).unbind(-1)
    span = scale.to(dtype) - less
    across = (x - (width - less) / 2) * (span[:, :1] / (width - less))
    down = (y - (height - less) / 2) * (span[:, 1:] / (height - less))
    if isinstance(rotation, Tensor):
        _check.floating("rotation", rotation)
        _check.same_device("rotation", rotation, "xy", xy)
        _check.shape("rotation", rotation, (xy.shape[0],), "[B]")
        angle = torch.deg2rad(rotation.to(dtype)).unsqueeze(-1)
        cos, sin = torch.cos(angle), torch.sin(angle)
        across, down = cos * across - sin * down, sin * across + cos * down
    elif rotation != 0:
        if not math.isfinite(rotation):
            raise ValueError(f"rotation must be finite, got {rotation}")
        c, s = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
        across, down = c * across - s * down, s * across + c * down
    return torch.stack((across, down), -1) + center.to(dtype).unsqueeze(1)


def size_pair(name: str, size: tuple[int, int]) -> tuple[int, int]:
    """`size` must be ``(W, H)``, two positive ints."""
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise ValueError(f"{name} must be a pair (W, H), got {size!r}")
    for n in size:
        if isinstance(n, bool) or not isinstance(n, int | torch.SymInt):
            raise TypeError(f"{name} must be two ints (W, H), got {size!r}")
        if n < 1:
            raise ValueError(f"{name} must be at least 1 x 1, got {size[0]} x {size[1]}")
    return size[0], size[1]


def _exchanged(pairs: Sequence[tuple[int, int]], channels: int) -> list[int]:
    """The source of every channel."""
    order = list(range(channels))
    seen: set[int] = set()
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ValueError(f"pairs must be pairs (left, right) of channels, got {pair!r}")
        for k in pair:
            if isinstance(k, bool) or not isinstance(k, int):
                raise TypeError(f"pairs must hold ints, got {pair!r}")
            if not 0 <= k < channels:
                raise ValueError(f"pairs must name channels 0 to {channels - 1}, got {pair!r}")
            if k in seen:
                raise ValueError(f"pairs must name a channel once, got {k} twice")
            seen.add(k)
        left, right = pair
        order[left], order[right] = right, left
    return order
