"""A convolution that only its mean and maximum leave, with a backward pass that knows it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from facekernels import _check
from facekernels._op import Op, current_backend, launch, use_reference
from facekernels.ops.mlca import pools_of_map
from facekernels.reference import conv_pools as reference

_D_WEIGHT = Op(
    "conv_pools_d_weight(Tensor d_mean, Tensor d_max, Tensor argmax, Tensor x, "
    "Tensor(a!) workspace, Tensor(b!) d_weight) -> ()"
)
_D_INPUT = Op(
    "conv_pools_d_input(Tensor d_mean, Tensor d_max, Tensor argmax, Tensor weight, "
    "Tensor(a!) workspace, Tensor(b!) d_input) -> ()"
)


class ConvPools(NamedTuple):
    """What `conv_mean_max` returns, both [B, O]."""

    mean: Tensor
    max: Tensor


def conv_mean_max(
    x: Tensor, weight: Tensor, *, structured_backward: bool | None = None
) -> ConvPools:
    """Mean and maximum over the positions of a convolution whose map nothing else needs.

    Equivalent to::

        y = torch.nn.functional.conv2d(x, weight, padding="same").flatten(2)
        return y.mean(-1), y.max(-1).values

    The gradient at ``y`` is one number per channel everywhere plus one at the maximum. The
    structured backward pass uses that: 2 multiplications per weight and sample in place of H * W,
    and neither ``y`` nor its gradient is kept or made. It is exact up to rounding.

    Args:
        x: ``[B, I, H, W]``, float32, float64, float16 or bfloat16, any strides; H, W at least 1.
        weight: ``[O, I, kh, kw]``, dtype of x, kh and kw odd; stride 1, zero padding to the same
            size, one group, no bias (add it to both results).
        structured_backward: None chooses by measured speed: structured on the CPU for at least 40
            output channels and 9 positions, dense elsewhere. True or False decides; the CUDA
            kernels of the structured form are simple and have not been timed.

    Returns:
        `ConvPools` ``(mean, max)``, ``[B, O]`` each, float32, or float64 for float64 input.
        Autocast does not change anything.

    Equal maxima give their gradient to the first position. A NaN in ``y`` makes its mean NaN; its
    maximum may be that of the other positions.

    Second derivatives go through the dense form.

    Raises:
        TypeError: an argument is not a floating-point tensor, or the dtypes differ.
        ValueError: a shape or device does not fit.

    Source: the chain rule; the case in point is SwinFace's feature attention (Qin et al.,
    arXiv 2308.11509), see `facekernels.nn.MLCA`.
    """
    _prepare(x, weight)
    if use_reference():
        return ConvPools(*reference.conv_mean_max(x, weight))
    x, weight = _check.resolve_neg(x), _check.resolve_neg(weight)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        if structured_backward is None:
            structured_backward = structured_is_faster(x, weight)
        mean, maximum, _ = _ConvMeanMax.apply(x, weight, structured_backward)
    else:
        mean, maximum, _ = _forward(x, weight)
    return ConvPools(mean, maximum)


def structured_is_faster(x: Tensor, weight: Tensor) -> bool:
    """Whether the structured backward pass beats oneDNN's dense one, as measured.

    Laying out the patches costs as much as some 35 output channels save.
    """
    return bool(x.is_cpu and weight.shape[0] >= 40 and x.shape[2] * x.shape[3] >= 9)


def _prepare(x: Tensor, weight: Tensor) -> None:
    _check.floating("x", x)
    _check.floating("weight", weight)
    _check.same_device("weight", weight, "x", x)
    if weight.dtype != x.dtype:
        raise TypeError(f"weight must be {str(x.dtype)[6:]} as x, got {str(weight.dtype)[6:]}")
    if x.ndim != 4 or x.shape[2] == 0 or x.shape[3] == 0:
        raise ValueError(
            f"x must be [B, I, H, W] with a map of at least 1 x 1, got shape {_check.shape_of(x)}"
        )
    odd = weight.ndim == 4 and weight.shape[2] % 2 == 1 and weight.shape[3] % 2 == 1
    if not odd or weight.shape[1] != x.shape[1] or 0 in weight.shape:
        raise ValueError(
            f"weight must be [O, {x.shape[1]}, kh, kw] with O and I at least 1 and odd kh and kw, "
            f"got shape {_check.shape_of(weight)}"
        )


def _forward(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    with torch.autocast(x.device.type, enabled=False):
        y = F.conv2d(x, weight, padding="same")
    return pools_of_map(y)


class _ConvMeanMax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, structured: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, maximum, argmax = _forward(x, weight)
        ctx.mark_non_differentiable(argmax)
        ctx.structured = structured
        ctx.save_for_backward(argmax, x, weight)
        return mean, maximum, argmax

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        d_mean, d_max, _ = grads
        dense = torch.is_grad_enabled() or not ctx.structured
        backward = _dense_backward if dense else _structured_backward
        return *backward(d_mean, d_max, *ctx.saved_tensors, *ctx.needs_input_grad[:2]), None


def _dense_backward(
    d_mean: Tensor, d_max: Tensor, argmax: Tensor, x: Tensor, weight: Tensor, *needs: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Through the gradient of the whole map, by torch and differentiable again."""
    height, width = x.shape[2:]
    everywhere = (d_mean / (height * width)).unsqueeze(2).expand(-1, -1, height * width)
    flat = everywhere.scatter_add(2, argmax.long().unsqueeze(2), d_max.unsqueeze(2))
    padding = [weight.shape[2] // 2, weight.shape[3] // 2]
    d_x, d_weight, _ = torch.ops.aten.convolution_backward(
        flat.to(x.dtype).unflatten(2, (height, width)), x, weight, None,
        [1, 1], padding, [1, 1], False, [0, 0], 1, [*needs, False],
    )  # fmt: skip
    return d_x, d_weight


def _structured_backward(
    d_mean: Tensor, d_max: Tensor, argmax: Tensor, x: Tensor, weight: Tensor, *needs: bool
) -> tuple[Tensor | None, Tensor | None]:
    """From two patches per sample and output channel: the mean one and that at the maximum."""
    need_x, need_weight = needs
    pools = d_mean.contiguous(), d_max.contiguous(), argmax
    d_x = d_weight = None
    if need_x:
        d_x = torch.empty_like(x)
        launch(_D_INPUT, *pools, weight.contiguous(), _workspace(x, weight, d_mean), d_x)
    if need_weight:
        empty = torch.zeros if x.shape[0] == 0 else torch.empty  # without samples no kernel runs
        wide = empty(weight.shape, dtype=d_mean.dtype, device=x.device)
        launch(_D_WEIGHT, *pools, x, _workspace(x, weight, d_mean), wide)
        d_weight = wide.to(weight.dtype)
    return d_x, d_weight


def _workspace(x: Tensor, weight: Tensor, like: Tensor) -> Tensor:
    """One patch per sample for the CUDA kernels; the CPU kernels keep theirs per thread."""
    if x.is_cpu and current_backend() != "emulated":
        return like.new_empty(0)
    return like.new_empty(x.shape[0], weight[:1].numel())
