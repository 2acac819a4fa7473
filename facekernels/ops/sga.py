"""Stochastic gradient aggregation (SGA): the arithmetic of universal adversarial perturbations.

A perturbation is ``delta [C, H, W]``; every op also takes several at once, ``[U, C, H, W]``. No op
reads a value back from the device, so CUDA graphs can capture them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from facekernels import _check
from facekernels._op import Op, launch, use_reference
from facekernels.reference import sga as reference

_APPLY = Op(
    "uap_apply(Tensor images, Tensor delta, Tensor? mean, Tensor? std, Tensor? index, "
    "Tensor(a!) out) -> ()"
)
_INNER = Op(
    "sga_inner_step(Tensor grad, Tensor images, Tensor(a!) delta, Tensor(b!) accumulator, "
    "Tensor? index, Tensor? std, float step, float epsilon) -> ()"
)
_OUTER = Op(
    "sga_outer_step(Tensor(a!) delta, Tensor(b!) accumulator, Tensor(c!)? velocity, "
    "Tensor(d!)? partial, float step, float epsilon, float momentum) -> ()"
)
_AGGREGATE = Op(
    "sga_aggregate(Tensor grads, Tensor delta, Tensor? weights, float step, float epsilon, "
    "Tensor(a!) out) -> ()"
)

_NORM_CHUNK = 1024  # values per partial norm, as in csrc/sga/sga_math.h
_WIDE = frozenset({torch.float32, torch.float64})
_HALF = frozenset({torch.float16, torch.bfloat16})


def uap_apply(
    images: Tensor,
    delta: Tensor,
    mean: Tensor | Sequence[float] | None = None,
    std: Tensor | Sequence[float] | None = None,
    index: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Perturbed, clamped, normalised images in one pass, gathered from a set.

    Equivalent to::

        x = images[index] / 255 if images.dtype == torch.uint8 else images[index]
        out = (torch.clamp(x + delta, 0, 1) - mean[:, None, None]) / std[:, None, None]
        return out.to(out_dtype)

    Differentiable in delta and in floating-point images, twice; mean and std are constants. The
    derivative is plain PyTorch, because attacks use `sga_inner_step_` instead.

    Args:
        images: ``[N, C, H, W]``, uint8 (a value v means v / 255) or the dtype of delta with values
            in [0, 1]; shared by all perturbations. ``[C, H, W]`` of a row must be dense; another
            layout (channels_last too) is copied once.
        delta: ``[C, H, W]`` or ``[U, C, H, W]``, float32 (or float64).
        mean: ``[C]`` subtracted after the clamp; None for 0. Give tensors on the device of delta
            where a CUDA graph is captured: a sequence of numbers is copied to it.
        std: ``[C]`` divided by; None for 1.
        index: int64 ``[b]``, or ``[U, b]`` with its own rows for each perturbation; None takes all
            rows in order. Negative rows are not counted from the end.
        out_dtype: float16, bfloat16 or the dtype of delta (the default). Rounded once.

    Returns:
        ``[b, C, H, W]``, or ``[U, b, C, H, W]`` for several perturbations; contiguous. An empty
        index gives an empty tensor.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: a shape or device does not fit.
        IndexError: a row of index is outside [0, N). On CUDA, where a kernel cannot raise, such an
            image is NaN.

    Source: SGA (Liu et al., arXiv 2308.06015, algorithm 1).
    """
    many, delta4 = _perturbations(delta)
    images, index, batch = _selection(images, index, delta, many)
    mean, std = _channels("mean", mean, delta), _channels("std", std, delta)
    out_dtype = out_dtype or delta.dtype
    if out_dtype is not delta.dtype and not (out_dtype in _HALF and delta.dtype is torch.float32):
        raise TypeError(
            f"out_dtype must be {_check_name(delta.dtype)}"
            + (", float16 or bfloat16" if delta.dtype is torch.float32 else "")
            + f", got {_check_name(out_dtype) if isinstance(out_dtype, torch.dtype) else out_dtype}"
        )
    if use_reference():
        out = reference.uap_apply(images, delta4, mean, std, index, out_dtype)
    elif torch.is_grad_enabled() and (delta.requires_grad or images.requires_grad):
        out = _Apply.apply(images, delta4, mean, std, index, out_dtype, batch)
    else:
        out = _apply(images, delta4, mean, std, index, out_dtype, batch)
    return out if many else out[0]


def sga_inner_step_(
    grad: Tensor,
    images: Tensor,
    delta: Tensor,
    accumulator: Tensor,
    *,
    step: float,
    epsilon: float,
    index: Tensor | None = None,
    std: Tensor | Sequence[float] | None = None,
) -> None:
    """One inner step of SGA, in place: from the gradient of a mini-batch to the next perturbation.

    Equivalent to, with the sum over samples taken in order::

        x = images[index] + delta
        g = torch.where((x >= 0) & (x <= 1), grad, 0).mean(0) / std[:, None, None]
        accumulator += g
        delta.copy_(torch.clamp(delta + step * torch.sign(g), -epsilon, epsilon))

    in one sweep over grad and images. All back ends give the same bits.

    Args:
        grad: ``[b, C, H, W]`` (``[U, b, C, H, W]`` for several perturbations), the gradient at the
            output of ``uap_apply(images, delta, mean, std, index)``; the dtype of delta, or float16
            or bfloat16, which is summed in float32. A row must be dense; another layout is copied
            once.
        images: as for `uap_apply`, with which the clamp's mask is recomputed.
        delta: ``[C, H, W]`` or ``[U, C, H, W]``, float32 (or float64), contiguous; updated.
        accumulator: like delta; the running sum of g, updated.
        step: length of the sign step, in (0, epsilon].
        epsilon: largest absolute value of delta, positive.
        index: the index `uap_apply` was given.
        std: the std `uap_apply` was given.

    A gradient of 0 leaves its value of delta as it is; so does a NaN, which stays in the
    accumulator until `sga_outer_step_` clears it: scale losses so that it does not come up.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: a shape, layout or device does not fit, the batch is empty, or step or epsilon
            is out of range.
        IndexError: as for `uap_apply`; on CUDA the gradient of such a row is NaN.

    Source: SGA (Liu et al., arXiv 2308.06015, algorithm 1, inner loop).
    """
    many, delta4 = _perturbations(delta)
    images, index, batch = _selection(images, index, delta, many)
    std = _channels("std", std, delta)
    step, epsilon = _step(step, epsilon)
    _gradients("grad", grad, delta)
    meaning = "[U, b, C, H, W]" if many else "[b, C, H, W]"
    leading = (delta4.shape[0],) if many else ()
    _check.shape("grad", grad, (*leading, batch, *delta4.shape[1:]), meaning)
    if batch == 0:
        raise ValueError("grad must hold at least one sample, got an empty batch")
    _state("delta", delta, delta)
    _state("accumulator", accumulator, delta)
    _distinct(delta=delta, accumulator=accumulator)
    grad5 = grad if many else grad.unsqueeze(0)
    accumulator4 = accumulator if many else accumulator.unsqueeze(0)
    grad5, images = grad5.detach(), images.detach()
    if use_reference():
        new_delta, new_accumulator = reference.sga_inner_step(
            grad5, images, delta4, accumulator4, step, epsilon, index, std
        )
        delta4.copy_(new_delta)
        accumulator4.copy_(new_accumulator)
        return
    grad5 = _check.resolve_neg(_dense_rows(grad5))
    launch(_INNER, grad5, images, delta4, accumulator4, index, std, step, epsilon)


def sga_outer_step_(
    delta: Tensor,
    accumulator: Tensor,
    velocity: Tensor | None = None,
    *,
    step: float,
    epsilon: float,
    momentum: float = 0.0,
) -> None:
    """One outer step of SGA, in place: the aggregated gradient moves the perturbation.

    Equivalent to::

        if velocity is not None:
            velocity.mul_(momentum).add_(accumulator / accumulator.abs().sum((-3, -2, -1), True))
        s = torch.sign(accumulator if velocity is None else velocity)
        delta.copy_(torch.clamp(delta + step * s, -epsilon, epsilon))
        accumulator.zero_()

    where a norm that is 0, infinite or NaN adds nothing to the velocity. The norm is summed in a
    fixed order (`facekernels.reference.sga.l1_norm`), so all back ends give the same bits.

    Args:
        delta: ``[C, H, W]`` or ``[U, C, H, W]``, float32 (or float64), contiguous; updated.
        accumulator: like delta; sum or mean of the gradients (only its sign, or its direction,
            counts). Set to 0.
        velocity: like delta, updated; None for no momentum.
        step: length of the sign step, in (0, epsilon].
        epsilon: largest absolute value of delta, positive.
        momentum: decay of the velocity, at least 0; needs a velocity unless it is 0.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: a shape, layout or device does not fit, or a number is out of range.

    Source: SGA (Liu et al., arXiv 2308.06015, algorithm 1); the momentum is MI-FGSM's (Dong et al.,
    arXiv 1710.06081, equation 6).
    """
    many, delta4 = _perturbations(delta)
    step, epsilon = _step(step, epsilon)
    momentum = _number("momentum", momentum)
    if not momentum >= 0:
        raise ValueError(f"momentum must be at least 0, got {momentum}")
    if momentum and velocity is None:
        raise ValueError(f"momentum {momentum} needs a velocity, got None")
    _state("delta", delta, delta)
    _state("accumulator", accumulator, delta)
    _distinct(delta=delta, accumulator=accumulator, velocity=velocity)
    if velocity is not None:
        _state("velocity", velocity, delta)
    accumulator4 = accumulator if many else accumulator.unsqueeze(0)
    velocity4 = velocity if many or velocity is None else velocity.unsqueeze(0)
    if use_reference():
        new_delta, new_velocity = reference.sga_outer_step(
            delta4, accumulator4, velocity4, step, epsilon, momentum
        )
        delta4.copy_(new_delta)
        if velocity4 is not None and new_velocity is not None:
            velocity4.copy_(new_velocity)
        accumulator4.zero_()
        return
    partial = None
    if velocity4 is not None:
        count, channels, height, width = delta4.shape
        partial = delta4.new_empty((count, -(-channels * height * width // _NORM_CHUNK)))
    launch(_OUTER, delta4, accumulator4, velocity4, partial, step, epsilon, momentum)


def sga_aggregate(
    grads: Tensor,
    delta: Tensor,
    *,
    step: float,
    epsilon: float,
    weights: Tensor | Sequence[float] | None = None,
) -> Tensor:
    """The outer step of SGA from stored gradients, in one read of them.

    Equivalent to, for per-sample gradients of an ensemble and with sums taken in order::

        g = (weights[:, None, None, None] * grads.sum((1, 2))).sum(0)
        return torch.clamp(delta + step * torch.sign(g), -epsilon, epsilon)

    Args:
        grads: ``[M, C, H, W]`` gradients, ``[M, B, C, H, W]`` per-sample gradients or
            ``[E, M, B, C, H, W]`` of E models; with one more leading U for several perturbations.
            The dtype of delta, or float16 or bfloat16, which are summed in float32. Another layout
            than contiguous is copied once.
        delta: ``[C, H, W]`` or ``[U, C, H, W]``, float32 (or float64).
        step: length of the sign step, in (0, epsilon].
        epsilon: largest absolute value of delta, positive.
        weights: ``[E]`` weights of the models; None for equal ones.

    Returns:
        The new delta; the given one is not changed. Not differentiable.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: a shape or device does not fit, there is no gradient, weights come without an
            ensemble, or step or epsilon is out of range.

    Source: SGA (Liu et al., arXiv 2308.06015, algorithm 1, aggregation).
    """
    many, delta4 = _perturbations(delta)
    step, epsilon = _step(step, epsilon)
    _gradients("grads", grads, delta)
    grads = grads.detach() if many else grads.detach().unsqueeze(0)
    lead = grads.ndim - 4
    if (
        lead not in (1, 2, 3)
        or grads.shape[-3:] != delta4.shape[1:]
        or grads.shape[0] != delta4.shape[0]
    ):
        prefix = "U, " if many else ""
        sizes = ", ".join(str(s) for s in delta4.shape[1:])
        raise ValueError(
            f"grads must be [{prefix}M, C, H, W], [{prefix}M, B, C, H, W] or "
            f"[{prefix}E, M, B, C, H, W] with C, H, W = {sizes}"
            + (f" and U = {delta4.shape[0]}" if many else "")
            + f", got shape {_check.shape_of(grads if many else grads[0])}"
        )
    if 0 in grads.shape[1:-3]:
        raise ValueError(
            f"grads must hold at least one gradient, got shape "
            f"{_check.shape_of(grads if many else grads[0])}"
        )
    if weights is not None and lead != 3:
        raise ValueError("weights need grads of an ensemble, [E, M, B, C, H, W]")
    # Without weights an ensemble is only more samples.
    grads = grads.flatten(2, 3) if weights is not None else grads.flatten(1, -4).unsqueeze(1)
    weights = _vector("weights", weights, delta, grads.shape[1], "[E]")
    delta4 = delta4.detach()
    if use_reference():
        out = reference.sga_aggregate(grads, delta4, step, epsilon, weights)
    else:
        out = torch.empty(delta4.shape, dtype=delta4.dtype, device=delta4.device)
        dense = _check.resolve_neg(grads).contiguous()
        launch(_AGGREGATE, dense, delta4.contiguous(), weights, step, epsilon, out)
    return out if many else out[0]


def _check_name(dtype: torch.dtype) -> str:
    return str(dtype)[6:]


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    return float(value)


def _step(step: Any, epsilon: Any) -> tuple[float, float]:
    step, epsilon = _number("step", step), _number("epsilon", epsilon)
    if not 0 < epsilon < float("inf"):
        raise ValueError(f"epsilon must be positive and finite, got {epsilon}")
    if not 0 < step <= epsilon:
        raise ValueError(f"step must be in (0, epsilon] = (0, {epsilon}], got {step}")
    return step, epsilon


def _perturbations(delta: Tensor) -> tuple[bool, Tensor]:
    """Whether delta holds several perturbations, and delta as ``[U, C, H, W]``."""
    _check.tensor("delta", delta)
    if delta.dtype not in _WIDE:
        raise TypeError(f"delta must be float32 (or float64), got {_check_name(delta.dtype)}")
    if delta.ndim not in (3, 4):
        raise ValueError(
            f"delta must be [C, H, W] or [U, C, H, W], got shape {_check.shape_of(delta)}"
        )
    return delta.ndim == 4, delta if delta.ndim == 4 else delta.unsqueeze(0)


def _state(name: str, t: Tensor, delta: Tensor) -> None:
    """`t` is updated in place beside delta."""
    _check.tensor(name, t)
    if t.dtype is not delta.dtype:
        raise TypeError(
            f"{name} must have the dtype of delta ({_check_name(delta.dtype)}), "
            f"got {_check_name(t.dtype)}"
        )
    _check.same_device(name, t, "delta", delta)
    meaning = "[U, C, H, W]" if delta.ndim == 4 else "[C, H, W]"
    _check.shape(name, t, tuple(delta.shape), f"{meaning} like delta")
    if not t.is_contiguous():
        raise ValueError(f"{name} must be contiguous: it is updated in place")
    if t.requires_grad:
        raise ValueError(f"{name} must not require a gradient: it is updated in place")


def _distinct(**updated: Tensor | None) -> None:
    """Each of them is written, so none may be another."""
    names = list(updated)
    for i, name in enumerate(names):
        for other in names[:i]:
            if updated[name] is not None and updated[name] is updated[other]:
                raise ValueError(f"{name} must be another tensor than {other}: both are updated")


def _dense_rows(t: Tensor) -> Tensor:
    """`t` itself if ``[C, H, W]`` of its rows are dense, else a copy."""
    channels, height, width = t.shape[-3:]
    expected = (height * width, width, 1)
    sizes, strides = (channels, height, width), t.stride()[-3:]
    dense = all(n == 1 or s == e for n, s, e in zip(sizes, strides, expected, strict=True))
    return t if dense else t.contiguous()


def _selection(
    images: Tensor, index: Tensor | None, delta: Tensor, many: bool
) -> tuple[Tensor, Tensor | None, int]:
    """Images with dense rows, a dense index, and the number of images per perturbation."""
    _check.tensor("images", images)
    if images.dtype is not torch.uint8 and images.dtype is not delta.dtype:
        raise TypeError(
            f"images must be uint8 or the dtype of delta ({_check_name(delta.dtype)}), "
            f"got {_check_name(images.dtype)}"
        )
    _check.same_device("images", images, "delta", delta)
    if images.ndim != 4 or images.shape[1:] != delta.shape[-3:]:
        sizes = ", ".join(str(s) for s in delta.shape[-3:])
        raise ValueError(
            f"images must be [N, C, H, W] = (N, {sizes}), got shape {_check.shape_of(images)}"
        )
    images = _check.resolve_neg(_dense_rows(images))
    if index is None:
        return images, None, images.shape[0]
    _check.tensor("index", index)
    if index.dtype is not torch.int64:
        raise TypeError(f"index must be int64, got {_check_name(index.dtype)}")
    _check.same_device("index", index, "delta", delta)
    if index.ndim == 1 or (many and index.ndim == 2 and index.shape[0] == delta.shape[0]):
        return images, index.contiguous(), index.shape[-1]
    expected = f"[b] or [U, b] with U = {delta.shape[0]}" if many else "[b]"
    raise ValueError(f"index must be {expected}, got shape {_check.shape_of(index)}")


def _gradients(name: str, grad: Tensor, delta: Tensor) -> None:
    _check.floating(name, grad)
    if grad.dtype is not delta.dtype and not (grad.dtype in _HALF and delta.dtype is torch.float32):
        half = ", float16 or bfloat16" if delta.dtype is torch.float32 else ""
        raise TypeError(
            f"{name} must be the dtype of delta ({_check_name(delta.dtype)}){half}, "
            f"got {_check_name(grad.dtype)}"
        )
    _check.same_device(name, grad, "delta", delta)


def _channels(name: str, values: Any, delta: Tensor) -> Tensor | None:
    return _vector(name, values, delta, delta.shape[-3], "[C]")


def _vector(name: str, values: Any, delta: Tensor, size: int, meaning: str) -> Tensor | None:
    """A tensor or a sequence of numbers as a dense vector in the dtype of delta."""
    if values is None:
        return None
    if isinstance(values, Tensor):
        _check.floating(name, values)
        _check.same_device(name, values, "delta", delta)
        vector = values if values.dtype is delta.dtype else values.to(delta.dtype)
    else:
        try:
            vector = torch.tensor(list(values), dtype=delta.dtype, device=delta.device)
        except (TypeError, ValueError):
            raise TypeError(
                f"{name} must be a tensor or a sequence of numbers, got {values!r}"
            ) from None
    _check.shape(name, vector, (size,), meaning)
    return _check.resolve_neg(vector.detach()).contiguous()


def _apply(
    images: Tensor,
    delta: Tensor,
    mean: Tensor | None,
    std: Tensor | None,
    index: Tensor | None,
    out_dtype: torch.dtype,
    batch: int,
) -> Tensor:
    count, *sizes = delta.shape
    out = torch.empty((count, batch, *sizes), dtype=out_dtype, device=delta.device)
    dense = _check.resolve_neg(delta).contiguous()
    launch(_APPLY, images, dense, mean, std, index, out)
    return out


class _Apply(torch.autograd.Function):
    """Forward by the kernel, derivatives in PyTorch."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        delta: Tensor,
        mean: Tensor | None,
        std: Tensor | None,
        index: Tensor | None,
        out_dtype: torch.dtype,
        batch: int,
    ) -> Tensor:
        ctx.save_for_backward(images, delta, std, index)
        return _apply(images, delta, mean, std, index, out_dtype, batch)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        images, delta, std, index = ctx.saved_tensors
        if images.dtype is torch.uint8:
            images = images.to(delta.dtype) / 255
        d_images, d_delta = reference.uap_apply_backward(d_out, images, delta, std, index)
        wants_images, wants_delta = ctx.needs_input_grad[:2]
        return (
            d_images if wants_images else None,
            d_delta if wants_delta else None,
            *(None,) * 5,
        )
