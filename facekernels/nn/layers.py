"""Small pieces that several backbones use."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Stochastic depth: in training, drops a residual branch of a sample with probability `p`.

    What stays is divided by ``1 - p``. Source: Huang et al., Deep Networks with Stochastic Depth,
    ECCV 2016; per sample, as in Swin.
    """

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"p must be in [0, 1), got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        shape = (len(x),) + (1,) * (x.ndim - 1)
        kept = torch.rand(shape, device=x.device) >= self.p
        return x * (kept.to(x.dtype) / (1 - self.p))

    def extra_repr(self) -> str:
        """`p=0.1`."""
        return f"p={self.p}"


def init_transformer(module: nn.Module) -> None:
    """For `Module.apply`: truncated normal of 0.02 for linear weights, zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def shortcut(channels: int, out: int, stride: int) -> nn.Sequential | None:
    """A residual block's 1x1 convolution and BatchNorm; None where the identity fits."""
    if stride == 1 and channels == out:
        return None
    return nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
