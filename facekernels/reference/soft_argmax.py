"""Plain PyTorch of the `soft_argmax` family: the oracle of the kernels (in float64), what
transforms of torch.func differentiate, and the second derivatives of the kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def exact(heatmaps: Tensor) -> Tensor:
    """float32, or float64 for float64 maps."""
    return heatmaps if heatmaps.dtype is torch.float64 else heatmaps.to(torch.float32)


def axes(heatmaps: Tensor, normalized: bool = False) -> tuple[Tensor, Tensor]:
    """X ``[W]`` and y ``[H, 1]`` of the cells, in pixels or in [-1, 1]."""

    def axis(size: int) -> Tensor:
        pixels = torch.arange(size, dtype=heatmaps.dtype, device=heatmaps.device)
        return 2 * pixels / max(size - 1, 1) - (1 if size > 1 else 0) if normalized else pixels

    height, width = heatmaps.shape[-2:]
    return axis(width), axis(height).unsqueeze(1)


def soft_argmax(heatmaps: Tensor, beta: float = 100.0, *, normalized: bool = False) -> Tensor:
    """Heatmaps [B, K, H, W] -> expected position [B, K, 2] under softmax(beta * heatmap)."""
    h = exact(heatmaps)
    p = torch.softmax(beta * h.flatten(2), -1).view(h.shape)
    x, y = axes(h, normalized)
    return torch.stack(((p * x).sum((2, 3)), (p * y).sum((2, 3))), -1)


def soft_argmax_backward(heatmaps: Tensor, beta: float, normalized: bool, d_xy: Tensor) -> Tensor:
    """Gradient of `soft_argmax` for heatmaps, itself differentiable."""
    h = exact(heatmaps)
    p = torch.softmax(beta * h.flatten(2), -1).view(h.shape)
    x, y = axes(h, normalized)
    along = x * d_xy[..., 0, None, None] + y * d_xy[..., 1, None, None]
    d = beta * p * (along - (p * along).sum((2, 3), keepdim=True))
    return d.to(heatmaps.dtype)


def window(heatmaps: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """The first maximum's (x, y) [B, K, 2], and which cells [B, K, H, W] are near it."""
    h = exact(heatmaps.detach())
    flat = torch.where(h.isnan(), -torch.inf, h).flatten(2)
    index = flat.argmax(-1)
    width = h.shape[3]
    px, py = index % width, torch.div(index, width, rounding_mode="floor")
    x, y = axes(h)
    near = ((x - px[..., None, None]).abs() <= radius) & ((y - py[..., None, None]).abs() <= radius)
    return torch.stack((px, py), -1).to(h.dtype), near


def local_center_of_mass(heatmaps: Tensor, radius: int = 3) -> Tensor:
    """Heatmaps [B, K, H, W] -> mean position [B, K, 2] near the maximum, weighted by max(h, 0)."""
    h = exact(heatmaps)
    peak, near = window(heatmaps, radius)
    w = torch.where(near, torch.relu(h), 0)
    x, y = axes(h)
    total = w.sum((2, 3))
    empty = (total == 0).unsqueeze(-1)
    moments = torch.stack(((w * x).sum((2, 3)), (w * y).sum((2, 3))), -1)
    return torch.where(empty, peak, moments / torch.where(empty, 1, total.unsqueeze(-1)))


def local_center_of_mass_backward(heatmaps: Tensor, radius: int, d_xy: Tensor) -> Tensor:
    """Gradient of `local_center_of_mass` for heatmaps, itself differentiable."""
    h = exact(heatmaps)
    _, near = window(heatmaps, radius)
    near = near & ~(h <= 0)
    w = torch.where(near, h, 0)
    x, y = axes(h)
    total = w.sum((2, 3), keepdim=True)
    total = torch.where(total == 0, 1, total)
    along = x * d_xy[..., 0, None, None] + y * d_xy[..., 1, None, None]
    d = (along - (w * along).sum((2, 3), keepdim=True) / total) / total
    return torch.where(near, d, 0).to(heatmaps.dtype)
