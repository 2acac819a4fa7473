"""Plain PyTorch of the `gradient_attention` family: the oracle of the kernels, what transforms of
torch.func differentiate, and the second derivatives of the kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def exact(t: Tensor) -> Tensor:
    """float32, or float64 for float64 tensors."""
    return t if t.dtype is torch.float64 else t.to(torch.float32)


def attention(grad: Tensor, features: Tensor | None, reduce: str) -> Tensor:
    """Grad (and features) [B, C, H, W] -> map [B, 1, H, W] in float32 (float64 for float64)."""
    g = exact(grad)
    if reduce == "gradcam":
        assert features is not None
        weights = g.mean((2, 3), keepdim=True)
        return torch.relu((weights * exact(features)).sum(1, keepdim=True))
    if reduce == "abssum":
        return g.abs().sum(1, keepdim=True)
    if reduce == "l2":
        squares = g.square().sum(1, keepdim=True)
        # The root has no derivative at 0; there the gradient is 0.
        positive = squares > 0
        return torch.where(positive, torch.where(positive, squares, 1).sqrt(), squares)
    # max over a dimension gives its gradient to one channel, amax would spread it over ties.
    first = g.detach().abs().argmax(1, keepdim=True)
    return g.gather(1, first).abs()


def attention_backward(
    grad: Tensor, features: Tensor | None, reduce: str, d_map: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Gradients of `attention` for grad and features, themselves differentiable."""
    g = exact(grad)
    if reduce == "gradcam":
        assert features is not None
        f = exact(features)
        weights = g.mean((2, 3), keepdim=True)
        s = torch.where((weights * f).sum(1, keepdim=True) > 0, d_map, 0)
        d_grad = (f * s).mean((2, 3), keepdim=True).expand_as(g)
        return d_grad.to(grad.dtype), (weights * s).to(features.dtype)
    if reduce == "absmax":
        first = g.detach().abs().argmax(1, keepdim=True)
        at_first = torch.zeros_like(g).scatter(1, first, 1)
        return (d_map * g.detach().sign() * at_first).to(grad.dtype), None
    if reduce == "abssum":
        return (d_map * g.detach().sign()).to(grad.dtype), None
    size = attention(grad, None, "l2")
    zero = size == 0
    return torch.where(zero, 0, d_map * g / torch.where(zero, 1, size)).to(grad.dtype), None


def normalized(attention_map: Tensor, normalize: str) -> Tensor:
    """Each map [1, H, W] divided by what `normalize` names; a map without any stays 0."""
    if normalize == "none":
        return attention_map
    dims = (1, 2, 3)
    if normalize == "minmax":
        attention_map = attention_map - attention_map.amin(dims, keepdim=True)
    if normalize in ("max", "minmax"):
        scale = attention_map.amax(dims, keepdim=True)
    elif normalize == "sum":
        scale = attention_map.sum(dims, keepdim=True)
    else:
        squares = attention_map.square().sum(dims, keepdim=True)
        scale = torch.where(squares == 0, 1, squares).sqrt()
    return attention_map / torch.where(scale == 0, 1, scale)


def resized(attention_map: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Bilinear, pixel centres aligned as images are (align_corners=False)."""
    if size is None or tuple(attention_map.shape[2:]) == size:
        return attention_map
    return functional.interpolate(attention_map, size, mode="bilinear", align_corners=False)


def gradient_attention_map(
    grad: Tensor,
    features: Tensor | None = None,
    *,
    reduce: str = "absmax",
    normalize: str = "none",
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Grad (and features) [B, C, H, W] -> map [B, 1, H, W] or [B, 1, *size], dtype of grad."""
    result = resized(normalized(attention(grad, features, reduce), normalize), size)
    return result.to(grad.dtype)
