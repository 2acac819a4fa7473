"""Class activation maps: the classifier that has them, and the loss on those of two views."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from facekernels import _check
from facekernels.ops import cam_flip_consistency


def class_activation_maps(features: Tensor, weight: Tensor) -> Tensor:
    """Class activation maps: the classifier applied to every position.

    Equivalent to ``torch.einsum("bchw,kc->bkhw", features, weight)``. With the head's bias, the
    mean of a map is its class's logit: ``maps.mean((2, 3)) + bias`` (see `CAMHead`).

    Args:
        features: ``[B, C, H, W]`` features before global average pooling.
        weight: ``[K, C]`` weight of the linear classifier that follows it, same dtype.

    Returns:
        ``[B, K, H, W]``. Gradients reach both arguments; pass ``weight.detach()`` where the maps
        must not train the classifier.

    Raises:
        TypeError: an argument is not a floating-point tensor.
        ValueError: a shape does not fit.

    Source: Zhou et al., arXiv 1512.04150, equation 2.
    """
    _check_features(features)
    _check.floating("weight", weight)
    if weight.ndim != 2 or weight.shape[1] != features.shape[1]:
        raise ValueError(
            f"weight must be [K, C] = (K, {features.shape[1]}), got shape {_check.shape_of(weight)}"
        )
    return torch.einsum("bchw,kc->bkhw", features, weight)


class CAMHead(nn.Linear):
    """Global average pooling and a linear classifier, whose class activation maps can be asked for.

    A linear layer with the state dict of `torch.nn.Linear` (``weight``, ``bias``), so the ``fc``
    of a ResNet or the ``head`` of a Swin transformer can be loaded as it is. The features stay with
    the caller, who gives them to `maps` or, with ``weight``, to a consistency loss.

    Args:
        in_features: channels C.
        num_classes: classes K.
        bias: whether logits have a bias. Maps have none.

    Shape:
        input ``[B, C, H, W]``, any strides (tokens ``[B, H * W, C]``:
        ``tokens.mT.unflatten(2, (H, W))``); logits ``[B, K]``.

    Raises:
        TypeError: the input is not a floating-point tensor.
        ValueError: the input's shape does not fit.
    """

    def __init__(self, in_features: int, num_classes: int, bias: bool = True) -> None:
        super().__init__(in_features, num_classes, bias)

    def forward(self, features: Tensor) -> Tensor:
        self._check(features)
        return super().forward(features.mean((2, 3)))

    def maps(self, features: Tensor) -> Tensor:
        """``[B, K, H, W]`` class activation maps; ``maps.mean((2, 3)) + bias`` are the logits."""
        self._check(features)
        return class_activation_maps(features, self.weight)

    def _check(self, features: Tensor) -> None:
        _check_features(features)
        if features.shape[1] != self.in_features:
            raise ValueError(
                f"features must be [B, {self.in_features}, H, W], "
                f"got shape {_check.shape_of(features)}"
            )


class RebalancedAttentionConsistency(nn.Module):
    """Re-balanced attention consistency: two views' class activation maps must agree, most of all
    those of rare classes.

    A loss on features of images and of their mirror images, by
    `facekernels.ops.cam_flip_consistency`.

    Args:
        class_weights: ``[K]`` weights of the classes, such as those of `class_balance_weights`.
            Their scale is the scale of the loss. A buffer, float64 for float64 weights, not part
            of the state dict.
        detach_weight: whether the classifier is a constant (the released code); False lets the
            loss train it.

    Shape:
        ``forward(features, features_flipped, weight)`` with ``[B, C, H, W]`` twice and the
        classifier's ``[K, C]``; a scalar.

    Raises:
        TypeError, ValueError: as the op.

    Source: Zhang et al., NeurIPS 2023 ("Leave No Stone Unturned: Mine Extra Knowledge for
    Imbalanced Facial Expression Recognition").
    """

    class_weights: Tensor

    def __init__(self, class_weights: Tensor | Sequence[float], detach_weight: bool = True) -> None:
        super().__init__()
        given = torch.as_tensor(class_weights).detach()
        dtype = torch.promote_types(given.dtype, torch.get_default_dtype())
        weights = given.to(dtype, copy=True)
        if weights.ndim != 1 or weights.numel() == 0:
            raise ValueError(f"class_weights must be [K], got shape {_check.shape_of(weights)}")
        self.register_buffer("class_weights", weights, persistent=False)
        self.detach_weight = detach_weight

    def forward(self, features: Tensor, features_flipped: Tensor, weight: Tensor) -> Tensor:
        return cam_flip_consistency(
            features,
            features_flipped,
            weight,
            self.class_weights,
            detach_weight=self.detach_weight,
        ).loss

    def extra_repr(self) -> str:
        return f"classes={len(self.class_weights)}, detach_weight={self.detach_weight}"


def _check_features(features: Tensor) -> None:
    _check.floating("features", features)
    if features.ndim != 4:
        raise ValueError(f"features must be [B, C, H, W], got shape {_check.shape_of(features)}")
