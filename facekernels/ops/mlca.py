"""MLCA channel attention (SwinFace) and CBAM's channel gate, in one read of the map."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from facekernels import _check
from facekernels._op import Op, launch, use_reference
from facekernels.reference import mlca as reference

_FORWARD = Op(
    "mlca_forward(Tensor x, Tensor w1, Tensor b1, Tensor w2, Tensor b2, bool average, "
    "Tensor(a!) out, Tensor(b!) scale, Tensor(c!) mean, Tensor(d!) max, Tensor(e!) relu_mean, "
    "Tensor(f!) argmax, Tensor(g!) pre) -> ()"
)
_POOLS = Op("mlca_pools(Tensor x, Tensor(a!) mean, Tensor(b!) max, Tensor(c!) argmax) -> ()")
_GATE_BACKWARD = Op(
    "mlca_gate_backward(Tensor d_out, Tensor d_scale, Tensor w1, Tensor w2, Tensor scale, "
    "Tensor mean, Tensor max, Tensor relu_mean, Tensor pre, Tensor(a!) dz, Tensor(b!) d_pre, "
    "Tensor(c!) d_mean, Tensor(d!) d_max, Tensor(e!) d_relu_mean, Tensor(f!) dw1, "
    "Tensor(g!) db1, Tensor(h!) dw2, Tensor(i!) db2) -> ()"
)
_BACKWARD = Op(
    "mlca_backward(Tensor d_mean, Tensor d_max, Tensor argmax, Tensor d_relu_mean, Tensor x, "
    "Tensor(a!) dx) -> ()"
)


def mlca_gate(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, *, pool: str = "max"
) -> Tensor:
    """Channel attention, ReLU and global pooling of G branches in one read of the map.

    Equivalent to::

        mlp = lambda v: torch.relu(v @ w1.mT + b1[:, None]) @ w2.mT + b2[:, None]
        scale = torch.sigmoid(mlp(x.mean((-2, -1))) + mlp(x.amax((-2, -1))))
        return torch.relu(x * scale[..., None, None]).amax((-2, -1))  # or .mean((-2, -1))

    except that equal maxima give their gradient to the first position, as max_pool2d does. Because
    ``scale >= 0``, ``max(relu(scale * x)) == scale * relu(max(x))``: the scaled map is never made,
    and the backward pass of ``pool="max"`` neither keeps nor reads x.

    Args:
        x: ``[G, B, C, H, W]`` (or ``[B, C, H, W]``, read as G = 1), float32, float64, float16 or
            bfloat16, NCHW or channels_last in its last three dimensions; another layout is copied
            once. G = 0, B = 0 and C = 0 give empty results; H and W must be at least 1.
        w1: ``[G, R, C]`` first layer of the gate's MLP, R = C / reduction.
        b1: ``[G, R]``.
        w2: ``[G, C, R]`` second layer.
        b2: ``[G, C]``. For a 4-d x all four may come without their first dimension.
        pool: ``"max"`` (the paper) or ``"avg"``.

    Returns:
        ``[G, B, C]`` (``[B, C]`` for a 4-d x), dtype of x. Sums and the MLP are computed in float32
        (float64 for float64 input) and rounded once; autocast does not change that.

    A NaN anywhere in a sample makes its branch's results NaN, as in the composition. With -inf in a
    channel whose scale underflows to 0 the composition gives NaN, this op 0.

    Raises:
        TypeError: an argument is not a floating-point tensor.
        ValueError: a shape or device does not fit.

    Source: MLCA of SwinFace (Qin et al., arXiv 2308.11509, section III-B; the gate is CBAM's,
    Woo et al., arXiv 1807.06521, equation 2).
    """
    _check.one_of("pool", pool, ("max", "avg"))
    x, weights, four_d = _prepare(x, w1, b1, w2, b2)
    if use_reference():
        out = reference.mlca_gate(x, *weights, pool=pool)
    else:
        out = _run(x, weights, pool == "avg").out
    return out[0] if four_d else out


def channel_gate(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """CBAM's channel gate: ``x`` times its channel attention.

    Equivalent to::

        mlp = lambda v: torch.relu(v @ w1.mT + b1[:, None]) @ w2.mT + b2[:, None]
        return x * torch.sigmoid(mlp(x.mean((-2, -1))) + mlp(x.amax((-2, -1))))[..., None, None]

    The attention is computed in one read of x; the product is torch's.

    Args:
        x: ``[G, B, C, H, W]`` or ``[B, C, H, W]``; see `mlca_gate`, also for the weights.
        w1: ``[G, R, C]``.
        b1: ``[G, R]``.
        w2: ``[G, C, R]``.
        b2: ``[G, C]``.

    Returns:
        A tensor like x.

    Raises:
        TypeError: an argument is not a floating-point tensor.
        ValueError: a shape or device does not fit.

    Source: CBAM (Woo et al., arXiv 1807.06521, equation 2).
    """
    x, weights, four_d = _prepare(x, w1, b1, w2, b2)
    if use_reference():
        out = reference.channel_gate(x, *weights)
    else:
        out = x * _run(x, weights, average=False).scale.to(x.dtype)[..., None, None]
    return out[0] if four_d else out


class _Result(NamedTuple):
    out: Tensor
    scale: Tensor
    mean: Tensor
    max: Tensor
    relu_mean: Tensor
    argmax: Tensor
    pre: Tensor
    """``[G, B, 2, R]``: what the gate's ReLU gets, of the mean and of the maximum."""


def _prepare(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor], bool]:
    """Checks everything; returns x as 5-d and the weights with their branch dimension."""
    _check.floating("x", x)
    if x.ndim not in (4, 5):
        raise ValueError(
            f"x must be [G, B, C, H, W] or [B, C, H, W], got shape {_check.shape_of(x)}"
        )
    four_d = x.ndim == 4
    if four_d:
        x = x.unsqueeze(0)
    for name, weight in (("w1", w1), ("b1", b1), ("w2", w2), ("b2", b2)):
        _check.floating(name, weight)
        _check.same_device(name, weight, "x", x)
    if four_d and (w1.ndim, b1.ndim, w2.ndim, b2.ndim) == (2, 1, 2, 1):
        w1, b1, w2, b2 = (w.unsqueeze(0) for w in (w1, b1, w2, b2))
    groups, _, channels, height, width = x.shape
    if height == 0 or width == 0:
        raise ValueError(f"x must have a map of at least 1 x 1, got {height} x {width}")
    if w1.ndim != 3 or w1.shape[0] != groups or w1.shape[2] != channels:
        raise ValueError(
            f"w1 must be [G, R, C] = ({groups}, R, {channels}), got shape {_check.shape_of(w1)}"
        )
    hidden = w1.shape[1]
    _check.shape("b1", b1, (groups, hidden), "[G, R]")
    _check.shape("w2", w2, (groups, channels, hidden), "[G, C, R]")
    _check.shape("b2", b2, (groups, channels), "[G, C]")
    # Statistics, and so the gate, are kept in float32, or float64 for float64 maps.
    exact = _check.wide_dtype(x)
    w1, b1, w2, b2 = (_check.resolve_neg(w).to(exact) for w in (w1, b1, w2, b2))
    return _check.resolve_neg(x), (w1, b1, w2, b2), four_d


def _run(x: Tensor, weights: tuple[Tensor, ...], average: bool) -> _Result:
    if torch.is_grad_enabled() and (x.requires_grad or any(w.requires_grad for w in weights)):
        return _Result(*_Gate.apply(x, *weights, average))
    return _forward(x, weights, average, with_argmax=False)


def _with_flat_map(x: Tensor) -> Tensor:
    """X itself if H and W can be walked as one dimension next to dense channels, else a copy."""
    height, width = x.shape[3:]
    row, column = x.stride(3), x.stride(4)
    step = column if width > 1 else row if height > 1 else 1  # from one position to the next
    flat = height == 1 or width == 1 or row == width * column
    if flat and (step == 1 or x.stride(2) == 1 or x.shape[2] == 1):
        return x
    return x.contiguous()


def pools_of_map(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, maximum and its first position per channel of x [B, C, H, W]: [B, C] each."""
    shape = x.shape[:2]
    exact = _check.wide_dtype(x)
    mean, maximum = (torch.empty(shape, dtype=exact, device=x.device) for _ in range(2))
    argmax = torch.empty(shape, dtype=torch.int32, device=x.device)
    flat = _with_flat_map(x.unsqueeze(0))
    launch(_POOLS, flat, *(t.unsqueeze(0) for t in (mean, maximum, argmax)))
    return mean, maximum, argmax


def _forward(x: Tensor, weights: tuple[Tensor, ...], average: bool, with_argmax: bool) -> _Result:
    x = _with_flat_map(x)
    shape, exact = x.shape[:3], weights[0].dtype
    w1, b1, w2, b2 = (w.contiguous() for w in weights)
    out = torch.empty(shape, dtype=x.dtype, device=x.device)
    scale, mean, maximum = (torch.empty(shape, dtype=exact, device=x.device) for _ in range(3))
    relu_mean = torch.empty(shape if average else (0,), dtype=exact, device=x.device)
    argmax = torch.empty(shape if with_argmax else (0,), dtype=torch.int32, device=x.device)
    pre = torch.empty((*shape[:2], 2, w1.shape[1]), dtype=exact, device=x.device)
    launch(_FORWARD, x, w1, b1, w2, b2, average, out, scale, mean, maximum, relu_mean, argmax, pre)
    return _Result(out, scale, mean, maximum, relu_mean, argmax, pre)


class _Gate(torch.autograd.Function):
    """Statistics are differentiable outputs, so that a second derivative needs no copy of x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, average: bool
    ) -> tuple[Tensor, ...]:
        result = _forward(x, (w1, b1, w2, b2), average, with_argmax=True)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(result.argmax, result.pre)
        ctx.average = average
        ctx.map = _MapLike(x)
        ctx.save_for_backward(
            x if average else result.argmax, w1, b1, w2,
            result.scale, result.mean, result.max, result.relu_mean, result.argmax, result.pre,
        )  # fmt: skip
        return tuple(result)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, w1, b1, w2, scale, mean, maximum, relu_mean, argmax, pre = ctx.saved_tensors
        d_out, d_scale, *of_pools = grads[:5]
        want_map, want_weights = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:5])

        of_gate: _GateGradients = _GateGradients()
        if (d_out is not None or d_scale is not None) and (want_map or want_weights):
            if torch.is_grad_enabled() or scale.numel() == 0:
                of_gate = _composed_gate_backward(
                    d_out, d_scale, w1, b1, w2, scale, mean, maximum, relu_mean, ctx.average,
                    want_map, want_weights,
                )  # fmt: skip
            else:
                of_gate = _gate_backward(
                    d_out, d_scale, w1, w2, scale, mean, maximum, relu_mean, pre,
                    want_map, want_weights,
                )  # fmt: skip
        dx = None
        if want_map:
            d_mean, d_max, d_relu_mean = map(_plus, of_pools, of_gate.pools)
            if d_relu_mean is None:  # without elements for pool = max
                d_relu_mean = torch.zeros_like(relu_mean) if ctx.average else relu_mean
            pools = (
                torch.zeros_like(scale) if d_mean is None else d_mean,
                torch.zeros_like(scale) if d_max is None else d_max,
                d_relu_mean,
            )
            positive = x if ctx.average else relu_mean
            if torch.is_grad_enabled():
                dx = _PoolBackward.apply(*pools, argmax, positive, ctx.map)
            else:
                dx = _pool_backward(*pools, argmax, positive, ctx.map)
        return dx, *of_gate.weights, None


class _GateGradients(NamedTuple):
    pools: tuple[Tensor | None, ...] = (None, None, None)
    """Of mean, max and relu_mean."""
    weights: tuple[Tensor | None, ...] = (None, None, None, None)


def _gate_backward(
    d_out: Tensor | None, d_scale: Tensor | None, w1: Tensor, w2: Tensor, scale: Tensor,
    mean: Tensor, maximum: Tensor, relu_mean: Tensor, pre: Tensor,
    want_map: bool, want_weights: bool,
) -> _GateGradients:  # fmt: skip
    def empty(shape: torch.Size | tuple[int, ...], wanted: bool = True) -> Tensor:
        return scale.new_empty(shape if wanted else (0,))

    none = empty((0,))
    d_mean, d_max = empty(scale.shape, want_map), empty(scale.shape, want_map)
    d_relu_mean = empty(relu_mean.shape, want_map)
    dw1, dw2 = empty(w1.shape, want_weights), empty(w2.shape, want_weights)
    db1, db2 = empty(w1.shape[:2], want_weights), empty(w2.shape[:2], want_weights)
    launch(
        _GATE_BACKWARD,
        none if d_out is None else _check.resolve_neg(d_out).contiguous(),
        none if d_scale is None else _check.resolve_neg(d_scale).contiguous(),
        w1.contiguous(), w2.contiguous(), scale, mean, maximum, relu_mean, pre,
        empty(scale.shape), empty(pre.shape), d_mean, d_max, d_relu_mean, dw1, db1, dw2, db2,
    )  # fmt: skip
    return _GateGradients(
        (d_mean, d_max, d_relu_mean if relu_mean.numel() else None) if want_map else (None,) * 3,
        (dw1, db1, dw2, db2) if want_weights else (None,) * 4,
    )


def _composed_gate_backward(
    d_out: Tensor | None, d_scale: Tensor | None, w1: Tensor, b1: Tensor, w2: Tensor,
    scale: Tensor, mean: Tensor, maximum: Tensor, relu_mean: Tensor, average: bool,
    want_map: bool, want_weights: bool,
) -> _GateGradients:  # fmt: skip
    """The same in differentiable operations, for second derivatives and for empty maps."""
    d_pooled = None
    if d_out is not None:
        g = d_out.to(scale.dtype)
        d_pooled = g * scale
        d_scale = _plus(d_scale, g * (relu_mean if average else torch.relu(maximum)))
    assert d_scale is not None
    dz = d_scale * scale * (1 - scale)
    pre_mean = torch.baddbmm(b1.unsqueeze(1), mean, w1.mT)
    pre_max = torch.baddbmm(b1.unsqueeze(1), maximum, w1.mT)
    dh = dz @ w2
    zero = dh.new_zeros(())
    d_pre_mean, d_pre_max = (
        torch.where(pre_mean <= 0, zero, dh),
        torch.where(pre_max <= 0, zero, dh),
    )
    result = _GateGradients()
    if want_map:
        d_max = d_pre_max @ w1
        if d_pooled is not None and not average:
            d_max = d_max + torch.where(maximum <= 0, zero, d_pooled)
        result = result._replace(pools=(d_pre_mean @ w1, d_max, d_pooled if average else None))
    if want_weights:
        dw1 = torch.baddbmm(d_pre_mean.mT @ mean, d_pre_max.mT, maximum)
        dw2 = dz.mT @ (torch.relu(pre_mean) + torch.relu(pre_max))
        of_weights = (dw1, (d_pre_mean + d_pre_max).sum(1), dw2, 2 * dz.sum(1))
        result = result._replace(weights=of_weights)
    return result


def _plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


class _MapLike:
    """Shape, dtype and layout of a map, without keeping its memory."""

    def __init__(self, x: Tensor) -> None:
        self.shape, self.dtype, self.device = x.shape, x.dtype, x.device
        self.channels_last = x.stride(2) == 1 and x.shape[2] > 1

    def empty(self) -> Tensor:
        g, b, c, h, w = self.shape
        if self.channels_last:
            return torch.empty((g, b, h, w, c), dtype=self.dtype, device=self.device).permute(
                0, 1, 4, 2, 3
            )
        return torch.empty(self.shape, dtype=self.dtype, device=self.device)


def _pool_backward(
    d_mean: Tensor, d_max: Tensor, d_relu_mean: Tensor, argmax: Tensor, x: Tensor, like: _MapLike
) -> Tensor:
    dx = like.empty()
    if x.numel():  # the kernel walks x and dx with the same strides
        x = torch.empty_like(dx).copy_(x) if x.stride() != dx.stride() else x
    d_mean, d_max, d_relu_mean = (
        _check.resolve_neg(d).contiguous() for d in (d_mean, d_max, d_relu_mean)
    )
    launch(_BACKWARD, d_mean, d_max, argmax, d_relu_mean, x, dx)
    return dx


class _PoolBackward(torch.autograd.Function):
    """The map's gradient is linear in the pools' gradients; so its own backward is three pools."""

    @staticmethod
    def forward(
        ctx: Any, d_mean: Tensor, d_max: Tensor, d_relu_mean: Tensor, argmax: Tensor, x: Tensor,
        like: _MapLike,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(argmax, x)
        ctx.exact = d_mean.dtype
        return _pool_backward(d_mean, d_max, d_relu_mean, argmax, x, like)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        argmax, x = ctx.saved_tensors
        flat = grad.flatten(3).to(ctx.exact)
        at_max = flat.gather(3, argmax.long().unsqueeze(3)).squeeze(3)
        positive = (flat * (x.flatten(3) > 0)).mean(3) if x.numel() else None
        return flat.mean(3), at_max, positive, None, None, None
