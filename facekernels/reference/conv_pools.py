"""Plain PyTorch of the `conv_pools` family: the oracle of the kernels (in float64)."""

from __future__ import annotations

import torch
from torch import Tensor


def conv_mean_max(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """X [B, I, H, W], weight [O, I, kh, kw] -> mean and maximum over the positions, [B, O] each."""
    exact = torch.float64 if x.dtype is torch.float64 else torch.float32
    y = torch.nn.functional.conv2d(x, weight, padding="same").flatten(2).to(exact)
    return y.mean(-1), y.max(-1).values
