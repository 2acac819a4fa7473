"""Plain PyTorch of the `mlca` family: the oracle of the kernels (in float64), and what transforms
of torch.func differentiate.
"""

from __future__ import annotations

import torch
from torch import Tensor


def channel_scale(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """CBAM's channel attention. x [G, B, C, H, W] -> scale [G, B, C] in (0, 1)."""

    def mlp(v: Tensor) -> Tensor:
        hidden = torch.relu(v @ w1.mT + b1.unsqueeze(1))
        return hidden @ w2.mT + b2.unsqueeze(1)

    flat = x.flatten(3)
    return torch.sigmoid(mlp(flat.mean(-1)) + mlp(flat.max(-1).values))


def mlca_gate(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, *, pool: str = "max"
) -> Tensor:
    """X [G, B, C, H, W] -> pooled relu(scale * x), [G, B, C]; the published order of operations."""
    scaled = torch.relu(x * channel_scale(x, w1, b1, w2, b2)[..., None, None]).flatten(3)
    return scaled.max(-1).values if pool == "max" else scaled.mean(-1)


def channel_gate(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """X [G, B, C, H, W] -> scale * x, same shape."""
    return x * channel_scale(x, w1, b1, w2, b2)[..., None, None]
