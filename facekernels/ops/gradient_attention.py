"""Attention maps of gradients: which positions of an image or a layer a target depends on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from facekernels import _check
from facekernels._op import Op, launch, use_reference
from facekernels.reference import gradient_attention as reference

_FORWARD = Op(
    "gradient_attention_forward(Tensor grad, Tensor? features, int reduce, bool channels_last, "
    "Tensor(a!) map, Tensor(b!)? weights) -> ()"
)
_BACKWARD = Op(
    "gradient_attention_backward(Tensor grad, Tensor? features, int reduce, Tensor map, "
    "Tensor? weights, Tensor d_map, Tensor(a!) d_grad, Tensor(b!)? d_features) -> ()"
)

REDUCTIONS = ("absmax", "abssum", "l2", "gradcam")  # in the order of csrc's enum
NORMALIZATIONS = ("none", "max", "minmax", "sum", "l2")


def gradient_attention_map(
    grad: Tensor,
    features: Tensor | None = None,
    *,
    reduce: str = "absmax",
    normalize: str = "none",
    size: tuple[int, int] | int | None = None,
) -> Tensor:
    """Attention map of a gradient in one read of it.

    Equivalent to, before normalisation::

        grad.abs().amax(1, keepdim=True)                    # "absmax"
        grad.abs().sum(1, keepdim=True)                     # "abssum"
        grad.square().sum(1, keepdim=True).sqrt()           # "l2"
        weights = grad.mean((2, 3), keepdim=True)           # "gradcam"
        torch.relu((weights * features).sum(1, keepdim=True))

    then division by the maximum, the sum or the Euclidean norm of each map, and
    ``F.interpolate(map, size, mode="bilinear")``. Twice differentiable, so a loss on the map of a
    gradient taken with ``create_graph=True`` reaches the parameters.

    Args:
        grad: ``[B, C, H, W]`` gradients of a scalar per sample, float32, float64, float16 or
            bfloat16. B = 0 gives an empty result; C, H and W must be at least 1. Read as they are
            are NCHW and, by ``"gradcam"`` without a gradient and with features in the same layout,
            channels_last; other layouts are copied once.
        features: ``[B, C, H, W]`` activations of the layer, same dtype; for ``"gradcam"`` only.
        reduce: how channels become one map.
        normalize: ``"none"``; ``"max"``, ``"sum"``, ``"l2"``: divided by that of each map;
            ``"minmax"``: scaled to [0, 1]. A map of zeros stays zero. Normalisation comes before
            resizing.
        size: ``(height, width)``, or one number for both, of the result; None keeps H and W.

    Returns:
        ``[B, 1, H, W]`` or ``[B, 1, *size]``, at least 0, dtype of grad. Sums are kept in float32
        (float64 for float64) and rounded once; autocast does not change that.

    Equal magnitudes of ``"absmax"`` give their gradient to the first channel. A NaN makes its
    position NaN (its whole map with ``"gradcam"`` or a normalisation).

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: a shape or device does not fit, features are missing or superfluous, or a name
            is unknown.

    Source: ``"absmax"``: representative forgery mining (Wang and Deng, CVPR 2021, equation 1);
    ``"gradcam"``: Selvaraju et al., arXiv 1610.02391, equations 1 and 2.
    """
    _check.floating("grad", grad)
    _check.one_of("reduce", reduce, REDUCTIONS)
    _check.one_of("normalize", normalize, NORMALIZATIONS)
    if grad.ndim != 4:
        raise ValueError(f"grad must be [B, C, H, W], got shape {_check.shape_of(grad)}")
    if 0 in grad.shape[1:]:
        raise ValueError(f"grad must be at least 1 x 1 x 1, got shape {_check.shape_of(grad)}")
    if reduce == "gradcam":
        if features is None:
            raise ValueError("reduce 'gradcam' needs features, got None")
        _check.floating("features", features)
        _check.same_device("features", features, "grad", grad)
        if features.dtype is not grad.dtype:
            raise TypeError(
                f"features must have the dtype of grad ({str(grad.dtype)[6:]}), "
                f"got {str(features.dtype)[6:]}"
            )
        _check.shape("features", features, tuple(grad.shape), "[B, C, H, W] like grad")
    elif features is not None:
        raise ValueError(f"features are for reduce 'gradcam' only, got reduce {reduce!r}")
    height_width = _size(size)
    if use_reference():
        return reference.gradient_attention_map(
            grad, features, reduce=reduce, normalize=normalize, size=height_width
        )
    needs_grad = grad.requires_grad or (features is not None and features.requires_grad)
    if needs_grad and torch.is_grad_enabled():
        attention: Tensor = _Attention.apply(grad, features, reduce)
    else:
        attention = _map(grad, features, reduce)
    # The map is C times smaller than the gradient: what follows is cheap in PyTorch.
    return reference.resized(reference.normalized(attention, normalize), height_width).to(
        grad.dtype
    )


def _size(size: Any) -> tuple[int, int] | None:
    if size is None:
        return None
    pair = (size, size) if isinstance(size, int) else size
    if not (
        isinstance(pair, (tuple, list)) and len(pair) == 2 and all(type(s) is int for s in pair)
    ):
        raise TypeError(f"size must be (height, width) or an integer, got {size!r}")
    if min(pair) < 1:
        raise ValueError(f"size must be at least 1 x 1, got {pair[0]} x {pair[1]}")
    return (pair[0], pair[1])


def _dense(t: Tensor) -> Tensor:
    """`t` itself if each image is one run of memory, else a copy."""
    t = _check.resolve_neg(t)
    return t if _check.is_dense_image(t) else t.contiguous()


def _map(grad: Tensor, features: Tensor | None, reduce: str) -> Tensor:
    if features is not None:
        grad, features = _check.resolve_neg(grad), _check.resolve_neg(features)
        both = (grad, features)  # one channel is dense either way, and faster as NCHW
        if not all(map(_check.is_dense_image, both)) and all(
            _check.is_dense_image(t, channels_last=True) for t in both
        ):
            return _forward(grad, features, reduce, channels_last=True)[0]
    return _forward(_dense(grad), None if features is None else _dense(features), reduce)[0]


def _forward(
    grad: Tensor, features: Tensor | None, reduce: str, channels_last: bool = False
) -> tuple[Tensor, Tensor | None]:
    batch, channels, height, width = grad.shape
    wide = _check.wide_dtype(grad)
    attention = grad.new_empty((batch, 1, height, width), dtype=wide)
    weights = None if features is None else grad.new_empty((batch, channels), dtype=wide)
    code = REDUCTIONS.index(reduce)
    launch(_FORWARD, grad, features, code, channels_last, attention, weights)
    return attention, weights


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad: Tensor, features: Tensor | None, reduce: str) -> Tensor:
        grad = _dense(grad)
        features = None if features is None else _dense(features)
        attention, weights = _forward(grad, features, reduce)
        ctx.save_for_backward(grad, features, attention, weights)
        ctx.reduce = reduce
        return attention

    @staticmethod
    def backward(ctx: Any, d_map: Tensor) -> tuple[Tensor | None, ...]:
        grad, features, attention, weights = ctx.saved_tensors
        if torch.is_grad_enabled():
            return (*reference.attention_backward(grad, features, ctx.reduce, d_map), None)
        d_grad = torch.empty(grad.shape, dtype=grad.dtype, device=grad.device)
        d_features = None if features is None else torch.empty_like(d_grad)
        d_map = _check.resolve_neg(d_map).contiguous()
        code = REDUCTIONS.index(ctx.reduce)
        launch(_BACKWARD, grad, features, code, attention, weights, d_map, d_grad, d_features)
        return d_grad, d_features, None
