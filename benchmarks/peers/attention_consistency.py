"""Consistency of class activation maps; views [B, C, H, W], weight [K, C]."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def cam_flip_published(features: Tensor, flipped: Tensor, weight: Tensor, w: Tensor) -> Tensor:
    """The released order of work: products of all classes and channels are written, summed, and
    mirrored by resampling.
    """
    maps, other = ((weight[:, :, None, None] * f.unsqueeze(1)).sum(2) for f in (features, flipped))
    batch, _, height, width = maps.shape
    x = torch.linspace(1, -1, width, dtype=maps.dtype, device=maps.device).expand(height, width)
    y = torch.linspace(-1, 1, height, dtype=maps.dtype, device=maps.device).unsqueeze(1)
    grid = torch.stack((x, y.expand(height, width)), -1).expand(batch, height, width, 2)
    other = F.grid_sample(other, grid, padding_mode="border", align_corners=True)
    return ((maps - other).square().mean((2, 3)) * w).sum(1).mean()


def cam_flip_einsum(features: Tensor, flipped: Tensor, weight: Tensor, w: Tensor) -> Tensor:
    """Two products, of which one is flipped."""
    maps, other = (torch.einsum("bchw,kc->bkhw", f, weight) for f in (features, flipped))
    return ((maps - other.flip(-1)).square().mean((0, 2, 3)) * w).sum()


def cam_flip_difference(features: Tensor, flipped: Tensor, weight: Tensor, w: Tensor) -> Tensor:
    """One product, of the difference, in the layout in which it needs no copy."""
    difference = features - flipped.flip(-1)
    if difference.is_contiguous():
        residual = torch.matmul(weight, difference.flatten(2))
    else:
        residual = torch.matmul(difference.permute(0, 2, 3, 1).flatten(1, 2), weight.mT).mT
    return (residual.square().mean((0, 2)) * w).sum()
