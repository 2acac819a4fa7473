"""Plain PyTorch of the `attention_consistency` family: the oracle of the kernels, what transforms
of torch.func differentiate, and the second derivatives of the kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def difference(features: Tensor, features_flipped: Tensor) -> Tensor:
    """First view minus the second one flipped back, in float32 (float64 for float64)."""
    exact = torch.float64 if features.dtype is torch.float64 else torch.float32
    return features.to(exact) - features_flipped.to(exact).flip(-1)


def residual(features: Tensor, features_flipped: Tensor, weight: Tensor) -> Tensor:
    """Maps [B, C, H, W] and weight [K, C] -> the CAMs' difference [B, K, H, W]."""
    with torch.autocast(features.device.type, enabled=False):
        return torch.einsum("kc,bchw->bkhw", weight, difference(features, features_flipped))


def residual_backward(
    d_residual: Tensor, weight: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Gradients of `residual` for both maps, themselves differentiable."""
    with torch.autocast(weight.device.type, enabled=False):
        d_features = torch.einsum("kc,bkhw->bchw", weight, d_residual)
    return d_features.to(dtype), (-d_features).flip(-1).to(dtype)


def weight_gradient(d_residual: Tensor, features: Tensor, features_flipped: Tensor) -> Tensor:
    """Gradient of `residual` for the weight, itself differentiable."""
    with torch.autocast(features.device.type, enabled=False):
        return torch.einsum("bkhw,bchw->kc", d_residual, difference(features, features_flipped))


def cam_flip_consistency(
    features: Tensor,
    features_flipped: Tensor,
    weight: Tensor,
    class_weights: Tensor | None = None,
    *,
    detach_weight: bool = True,
    reduction: str = "mean",
) -> tuple[Tensor, Tensor]:
    """Maps [B, C, H, W] twice, weight [K, C], class_weights [K] -> (loss, per_class)."""
    exact = torch.float64 if features.dtype is torch.float64 else torch.float32
    weight = (weight.detach() if detach_weight else weight).to(exact)
    per_class = residual(features, features_flipped, weight).square().mean((2, 3))
    if reduction == "mean":
        per_class = per_class.mean(0)
    weighted = per_class if class_weights is None else class_weights.detach().to(exact) * per_class
    return weighted.sum(-1), per_class
