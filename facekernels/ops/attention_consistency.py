"""How well the class activation maps of an image and of its mirror image agree."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from facekernels import _check
from facekernels._op import Op, launch, use_reference
from facekernels.reference import attention_consistency as reference

_FORWARD = Op(
    "attention_consistency_forward(Tensor features, Tensor flipped, Tensor weight, "
    "Tensor? class_weights, Tensor(a!) residual, Tensor(b!)? squares, Tensor(c!)? loss, "
    "Tensor(d!)? per_class) -> ()"
)
_BACKWARD = Op(
    "attention_consistency_backward(Tensor residual, Tensor weight, Tensor? class_weights, "
    "Tensor? d_loss, Tensor? d_class, Tensor(a!)? d_features, Tensor(b!)? d_flipped) -> ()"
)

REDUCTIONS = ("mean", "none")
_TILE = 16  # kTile of csrc


class FlipConsistency(NamedTuple):
    """What `cam_flip_consistency` returns."""

    loss: Tensor
    """A scalar; ``[B]`` with ``reduction="none"``."""
    per_class: Tensor
    """``[K]``, without the class weights; ``[B, K]`` with ``reduction="none"``."""


def cam_flip_consistency(
    features: Tensor,
    features_flipped: Tensor,
    weight: Tensor,
    class_weights: Tensor | None = None,
    *,
    detach_weight: bool = True,
    reduction: str = "mean",
) -> FlipConsistency:
    """Squared difference of two views' class activation maps, in one read of the features.

    Equivalent to::

        difference = features - features_flipped.flip(-1)
        residual = torch.einsum("kc,bchw->bkhw", weight.detach(), difference)
        per_class = residual.square().mean((0, 2, 3))  # "none": .mean((2, 3))
        loss = (class_weights * per_class).sum(-1)

    No map of the features' size is made. The features are subtracted before the product, which
    loses fewer digits than the difference of two class activation maps. For the backward pass only
    the residual ``[B, K, H, W]`` is kept (with ``detach_weight=False`` the features, too). Twice
    differentiable.

    Args:
        features: ``[B, C, H, W]`` features of the images before global average pooling, float32,
            float64, float16 or bfloat16. C, H and W must be at least 1. NCHW and channels_last are
            read as they are, also with gaps between images; another layout is copied once. Tokens
            ``[B, H * W, C]`` of a transformer are channels_last features:
            ``tokens.mT.unflatten(2, (H, W))`` copies nothing.
        features_flipped: the same of the mirror images, same shape and dtype. If it has another
            layout than features it is copied once.
        weight: ``[K, C]`` weight of the linear classifier that follows the pooling, any
            floating-point dtype; used in float32 (float64 for float64 features).
        class_weights: ``[K]`` weights of the classes, constant; None is 1 for each.
        detach_weight: whether the classifier's weight is a constant, as published. False gives it
            a gradient, which is computed by PyTorch's operations.
        reduction: ``"mean"`` over the batch, or ``"none"``.

    Returns:
        `FlipConsistency` ``(loss, per_class)`` in float32 (float64 for float64 features). Both are
        differentiable: a weighting of one's own, ``(w * per_class).sum()``, needs no second
        call. Autocast does not change anything.

    A NaN makes what depends on it NaN. An empty batch gives NaN with ``"mean"``, the mean of
    nothing, as PyTorch's losses do.

    Raises:
        TypeError: an argument is not a floating-point tensor, or the views' dtypes differ.
        ValueError: a shape, device or name does not fit.

    Source: re-balanced attention consistency of Mine Extra Knowledge (Zhang et al., NeurIPS 2023,
    "Leave No Stone Unturned: Mine Extra Knowledge for Imbalanced Facial Expression Recognition").
    """
    _check.floating("features", features)
    if features.ndim != 4 or 0 in features.shape[1:]:
        raise ValueError(
            "features must be [B, C, H, W] of at least 1 x 1 x 1, "
            f"got shape {_check.shape_of(features)}"
        )
    _check.floating("features_flipped", features_flipped)
    _check.same_device("features_flipped", features_flipped, "features", features)
    if features_flipped.dtype is not features.dtype:
        raise TypeError(
            f"features_flipped must have the dtype of features ({str(features.dtype)[6:]}), "
            f"got {str(features_flipped.dtype)[6:]}"
        )
    _check.shape(
        "features_flipped", features_flipped, tuple(features.shape), "[B, C, H, W] like features"
    )
    _check.floating("weight", weight)
    _check.same_device("weight", weight, "features", features)
    channels = features.shape[1]
    if weight.ndim != 2 or weight.shape[0] == 0 or weight.shape[1] != channels:
        raise ValueError(
            f"weight must be [K, C] = (K, {channels}) with K at least 1, "
            f"got shape {_check.shape_of(weight)}"
        )
    if class_weights is not None:
        _check.floating("class_weights", class_weights)
        _check.same_device("class_weights", class_weights, "features", features)
        _check.shape("class_weights", class_weights, (weight.shape[0],), "[K]")
    _check.one_of("reduction", reduction, REDUCTIONS)
    if use_reference():
        return FlipConsistency(
            *reference.cam_flip_consistency(
                features,
                features_flipped,
                weight,
                class_weights,
                detach_weight=detach_weight,
                reduction=reduction,
            )
        )
    exact = _check.wide_dtype(features)
    weight = _parameter(weight.detach() if detach_weight else weight, exact)
    if class_weights is not None:
        class_weights = _parameter(class_weights.detach(), exact)
    per_sample = reduction == "none"
    if torch.is_grad_enabled() and (
        features.requires_grad or features_flipped.requires_grad or weight.requires_grad
    ):
        loss, per_class, _ = _Consistency.apply(
            features, features_flipped, weight, class_weights, per_sample
        )
    else:
        views = _alike(features, features_flipped)
        loss, per_class, _ = _forward(*views, weight, class_weights, per_sample)
    return FlipConsistency(loss, per_class)


def _parameter(t: Tensor, exact: torch.dtype) -> Tensor:
    return _check.resolve_neg(t).to(exact).contiguous()


def _alike(features: Tensor, flipped: Tensor) -> tuple[Tensor, Tensor]:
    """Both views as dense images of one layout, copied where they are not."""
    features, flipped = _check.resolve_neg(features), _check.resolve_neg(flipped)
    channels_last = _is_channels_last(features)
    return _dense(features, channels_last), _dense(flipped, channels_last)


def _is_channels_last(t: Tensor) -> bool:
    return not _check.is_dense_image(t) and _check.is_dense_image(t, channels_last=True)


def _dense(t: Tensor, channels_last: bool) -> Tensor:
    if _check.is_dense_image(t, channels_last):
        return t
    return t.contiguous(memory_format=_format(channels_last))


def _format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def _forward(
    features: Tensor,
    flipped: Tensor,
    weight: Tensor,
    class_weights: Tensor | None,
    per_sample: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, per_class and residual of views that are alike."""
    batch, _, height, width = features.shape
    classes = weight.shape[0]
    tiles = (height * width + _TILE - 1) // _TILE
    residual = weight.new_empty(batch, classes, height, width)
    squares = weight.new_empty(batch, tiles, classes)
    loss = weight.new_empty((batch,) if per_sample else ())
    per_class = weight.new_empty((batch, classes) if per_sample else (classes,))
    launch(_FORWARD, features, flipped, weight, class_weights, residual, squares, loss, per_class)
    return loss, per_class, residual


class _Consistency(torch.autograd.Function):
    """The residual is a differentiable output, so that a second derivative needs no features."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        flipped: Tensor,
        weight: Tensor,
        class_weights: Tensor | None,
        per_sample: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        views = _alike(features, flipped)
        loss, per_class, residual = _forward(*views, weight, class_weights, per_sample)
        ctx.set_materialize_grads(False)
        ctx.per_sample = per_sample
        ctx.dtype = features.dtype
        ctx.channels_last = _is_channels_last(views[0])
        kept = (features, flipped) if ctx.needs_input_grad[2] else (None, None)
        ctx.save_for_backward(residual, weight, class_weights, *kept)
        return loss, per_class, residual

    @staticmethod
    def backward(
        ctx: Any, d_loss: Tensor | None, d_class: Tensor | None, d_residual: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        residual, weight, class_weights, features, flipped = ctx.saved_tensors
        if d_loss is None and d_class is None and d_residual is None:
            return None, None, None, None, None
        wanted = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled() or wanted[2] or d_residual is not None:
            d_residual = _gradient_of_residual(
                residual, class_weights, d_loss, d_class, d_residual, ctx.per_sample
            )
            d_weight = None
            if wanted[2]:
                d_weight = reference.weight_gradient(d_residual, features, flipped)
            if torch.is_grad_enabled():
                both = reference.residual_backward(d_residual, weight, ctx.dtype)
                d_features, d_flipped = (
                    d if w else None for d, w in zip(both, wanted[:2], strict=True)
                )
                return d_features, d_flipped, d_weight, None, None
            residual, class_weights, d_loss, d_class = d_residual.contiguous(), None, None, None
        else:
            d_weight = None
        d_features, d_flipped = (_gradient_like(ctx, residual, weight) if w else None
                                 for w in wanted[:2])  # fmt: skip
        if d_features is not None or d_flipped is not None:
            d_loss, d_class = (
                None if d is None else _check.resolve_neg(d).contiguous() for d in (d_loss, d_class)
            )
            launch(_BACKWARD, residual, weight, class_weights, d_loss, d_class, d_features,
                   d_flipped)  # fmt: skip
        return d_features, d_flipped, d_weight, None, None


def _gradient_like(ctx: Any, residual: Tensor, weight: Tensor) -> Tensor:
    batch, _, height, width = residual.shape
    return torch.empty(
        (batch, weight.shape[1], height, width),
        dtype=ctx.dtype,
        device=residual.device,
        memory_format=_format(ctx.channels_last),
    )


def _gradient_of_residual(
    residual: Tensor,
    class_weights: Tensor | None,
    d_loss: Tensor | None,
    d_class: Tensor | None,
    d_residual: Tensor | None,
    per_sample: bool,
) -> Tensor:
    """What all outputs give to the residual: [B, K, H, W], differentiable."""
    total = d_residual
    of_class = d_class
    if d_loss is not None:
        weights = residual.new_ones(residual.shape[1]) if class_weights is None else class_weights
        weighted = d_loss.unsqueeze(-1) * weights
        of_class = weighted if of_class is None else of_class + weighted
    if of_class is not None:
        averaged = residual.shape[2] * residual.shape[3]
        if not per_sample:
            averaged = averaged * residual.shape[0]
        own = of_class[..., None, None] * residual * 2 / averaged
        total = own if total is None else total + own
    assert total is not None
    return total
