"""Soft-argmax; [B, K, H, W] -> positions [B, K, 2]."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def soft_argmax(heatmaps: Tensor, beta: float) -> Tensor:
    """Softmax over the map, then the marginals' expectations: two sums over the map, not four."""
    height, width = heatmaps.shape[2:]
    p = torch.softmax(beta * heatmaps.flatten(2), -1).view(heatmaps.shape)
    x = torch.arange(width, dtype=p.dtype, device=p.device)
    y = torch.arange(height, dtype=p.dtype, device=p.device)
    return torch.stack((p.sum(2) @ x, p.sum(3) @ y), -1)


def kornia_soft_argmax(beta: float) -> Callable[[Tensor], Tensor]:
    """kornia's, whose temperature divides."""
    from kornia.geometry import spatial_soft_argmax2d

    return lambda h: spatial_soft_argmax2d(h, 1 / beta, normalized_coordinates=False)
