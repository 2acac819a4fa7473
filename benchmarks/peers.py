"""The implementations facekernels is compared with, each in the best form we know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile for one fixed shape; a graph break is an error, not a slower peer."""
    return torch.compile(function, fullgraph=True, dynamic=False)


# ---- MLCA


def mlca_branch_loop(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """SwinFace as published: branch by branch, pooling modules, the scaled map is written."""
    outputs = []
    for g in range(x.shape[0]):
        size = x[g].shape[-2:]
        attention = None
        for pool in (F.avg_pool2d, F.max_pool2d):
            pooled = pool(x[g], size).flatten(1)
            hidden = torch.relu(F.linear(pooled, w1[g], b1[g]))
            logits = F.linear(hidden, w2[g], b2[g])
            attention = logits if attention is None else attention + logits
        scale = torch.sigmoid(attention)[:, :, None, None].expand_as(x[g])
        outputs.append(F.max_pool2d(torch.relu(x[g] * scale), size).flatten(1))
    return torch.stack(outputs)


def mlca_folded(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """All branches at once, with the algebra facekernels uses: no scaled map, one second layer."""
    mean, maximum = x.mean((-2, -1)), x.amax((-2, -1))
    bias = b1.unsqueeze(1)
    hidden = torch.relu(torch.baddbmm(bias, mean, w1.mT)) + torch.relu(
        torch.baddbmm(bias, maximum, w1.mT)
    )
    scale = torch.sigmoid(torch.baddbmm(2 * b2.unsqueeze(1), hidden, w2.mT))
    return scale * torch.relu(maximum)


# ---- Soft-argmax


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
