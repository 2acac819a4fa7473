"""Erasing the parts of images to which an attention map points (RFM, GABN)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from facekernels import _check
from facekernels._op import Op, functorch_active, launch, use_reference
from facekernels.reference import erase as reference

_FILL = (
    "int kind, float value, float span, float lowest, float highest, int seed, "
    "Tensor? seed_tensor, Tensor? fill"
)
_REGIONS = Op(
    f"erase_regions(Tensor images, Tensor attention, Tensor rects, {_FILL}, Tensor(a!) out, "
    "Tensor(b!) mask, Tensor(c!) anchors) -> ()"
)
_TOP_N = Op(
    f"erase_top_n(Tensor images, Tensor attention, int count, {_FILL}, Tensor(a!) out, "
    "Tensor(b!) mask) -> ()"
)
_CONSTANT, _TENSOR, _NOISE = range(3)
_FILLS = ("zero", "mean", "noise")


class ErasedRegions(NamedTuple):
    """What `erase_regions` returns."""

    images: Tensor
    """``[B, C, H, W]``, dtype and layout of the images."""
    mask: Tensor
    """``[B, 1, H, W]`` bool, True where erased."""
    anchors: Tensor
    """``[B, N]`` int64, ``y * W + x`` of each round's pixel; -1 where none was left."""


class ErasedTopN(NamedTuple):
    """What `erase_top_n` returns."""

    images: Tensor
    """``[B, C, H, W]``, dtype and layout of the images."""
    mask: Tensor
    """``[B, 1, H, W]`` bool, True where erased."""


def erase_regions(
    images: Tensor,
    attention: Tensor,
    rects: Tensor,
    fill: str | float | Tensor = "zero",
    *,
    seed: int | Tensor | None = None,
    low: float = -1.0,
    high: float = 1.0,
) -> ErasedRegions:
    """N times: find the most sensitive pixel not yet erased, and erase a rectangle around it.

    Equivalent to::

        for b in range(B):
            free = torch.ones(H, W, dtype=torch.bool)
            n = 0
            for i in attention[b].flatten().argsort(descending=True, stable=True):
                y, x = divmod(i.item(), W)
                if n < N and free[y, x]:
                    h, w, sh, sw = rects[b, n].tolist()
                    rows = slice(max(y - sh, 0), max(y + h - sh, 0))
                    free[rows, max(x - sw, 0) : max(x + w - sw, 0)] = False
                    anchors[b, n], n = i, n + 1
            mask[b, 0] = ~free
        return torch.where(mask, fill, images), mask, anchors

    without a sort and without leaving the device. An anchor serves once, whether or not its
    rectangle covers it.

    Args:
        images: ``[B, C, H, W]``, float32, float64, float16 or bfloat16, contiguous or
            channels_last; another layout is copied once. B = 0 and C = 0 are allowed, H and W are
            at least 1.
        attention: ``[B, 1, H, W]``, any of these dtypes; larger is erased first. No gradient.
        rects: ``[B, N, 4]`` int64 or int32, one rectangle a round: height h and width w, and how
            many rows sh and columns sw of it lie above and left of the anchor. It covers rows
            ``y - sh`` to ``y + h - sh - 1`` within the image; the anchor itself is outside for
            ``sh >= h``. See `sample_rects`.
        fill: what erased pixels become: ``"zero"``, ``"mean"`` (of the image's channel), a number,
            a tensor broadcastable to the images, or ``"noise"``, which is uniform in [low, high)
            and a function of (seed, position) alone, the same on every device.
        seed: for ``"noise"``: an integer, or an int64 tensor of one element on the images' device.
        low: least value of the noise.
        high: bound of the noise, never reached.

    Returns:
        `ErasedRegions`. Pixels that are not erased keep their bits. Differentiable, twice too, in
        images and in a fill tensor; the mask is a constant.

    A NaN in the attention counts as -inf, -0 equals 0, and of equal cells the one with the lowest
    index comes first. Once every pixel is erased or visited, the remaining anchors are -1.

    Raises:
        TypeError: an argument is of the wrong type or dtype.
        ValueError: a shape, a device or an option does not fit; on the CPU, a rectangle's height
            or width is not positive (on CUDA, where rects is not read back, it erases nothing, and
            its anchor is spent).

    Source: the masking of RFM (Wang and Deng, arXiv 2104.06609), whose lab GABN comes from.
    """
    images, attention = _inputs(images, attention)
    _check.tensor("rects", rects)
    if rects.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"rects must be int64 or int32, got {str(rects.dtype)[6:]}")
    _check.same_device("rects", rects, "images", images)
    if attention.shape[2:] != images.shape[2:]:
        _check.shape(
            "attention", attention, (images.shape[0], 1, *images.shape[2:]), "[B, 1, H, W]"
        )
    if rects.ndim != 3 or rects.shape[0] != images.shape[0] or rects.shape[2] != 4:
        raise ValueError(
            f"rects must be [B, N, 4] = ({images.shape[0]}, N, 4), "
            f"got shape {_check.shape_of(rects)}"
        )
    rule, tensor = _rule(fill, images, seed, low, high)
    if use_reference():
        if rects.is_cpu and not functorch_active():
            _check_rects(rects)
        return ErasedRegions(
            *reference.erase_regions(images, attention, rects, fill, seed=seed, low=low, high=high)
        )
    return ErasedRegions(*_run(images, tensor, attention, rects, 0, rule))


def erase_top_n(
    images: Tensor,
    attention: Tensor,
    n: int | None = None,
    *,
    fraction: float | None = None,
    fill: str | float | Tensor = "zero",
    seed: int | Tensor | None = None,
    low: float = -1.0,
    high: float = 1.0,
) -> ErasedTopN:
    """Erase the n most sensitive pixels of each image: exactly n, whatever the ties.

    Equivalent to::

        if attention.shape[2:] != images.shape[2:]:
            attention = F.interpolate(attention, (H, W), mode="bilinear")
        order = attention.flatten(1).argsort(dim=1, descending=True, stable=True)
        mask = torch.zeros(B, H * W, dtype=torch.bool).scatter(1, order[:, :n], True)
        mask = mask.view(B, 1, H, W)
        return torch.where(mask, fill, images), mask

    without a sort. The resized map is never stored; its rounding is fixed (positions are exact
    fractions, columns are mixed after rows, nothing is fused), so every device chooses the same
    pixels. It can differ from ``F.interpolate`` in the last bit.

    Args:
        images: ``[B, C, H, W]``; see `erase_regions`, also for fill, seed, low and high.
        attention: ``[B, 1, h, w]`` of any size, float32, float64, float16 or bfloat16; larger is
            erased first. Computed in float32, or float64 for float64. No gradient.
        n: how many pixels, 0 to H * W.
        fraction: instead of n, the share of the pixels in [0, 1]: n = round(fraction * H * W).
        fill: ``"zero"``, ``"mean"``, ``"noise"``, a number or a tensor.
        seed: for ``"noise"``.
        low: least value of the noise.
        high: bound of the noise.

    Returns:
        `ErasedTopN`. Pixels that are not erased keep their bits. Differentiable, twice too, in
        images and in a fill tensor; the mask is a constant.

    A NaN in the (resized) attention counts as -inf, -0 equals 0, and of equal cells the one with
    the lowest index comes first.

    Raises:
        TypeError: an argument is of the wrong type or dtype, or both or none of n and fraction are
            given.
        ValueError: a shape, a device or an option does not fit, n is outside [0, H * W] or
            fraction outside [0, 1].

    Source: the Top-N erasing of GABN (Huang et al., 2023), whose mask has no public definition:
    this one is per pixel.
    """
    images, attention = _inputs(images, attention)
    pixels = images.shape[2] * images.shape[3]
    if (n is None) == (fraction is None):
        raise TypeError("give either n or fraction")
    if fraction is not None:
        if isinstance(fraction, bool) or not isinstance(fraction, (int, float)):
            raise TypeError(f"fraction must be a number, got {type(fraction).__name__}")
        if not 0 <= fraction <= 1:
            raise ValueError(f"fraction must be in [0, 1], got {fraction}")
        n = round(fraction * pixels)
    assert n is not None
    if isinstance(n, bool) or not isinstance(n, (int, torch.SymInt)):
        raise TypeError(f"n must be an integer, got {type(n).__name__}")
    if n < 0 or n > pixels:
        raise ValueError(f"n must be between 0 and H * W = {pixels}, got {n}")
    rule, tensor = _rule(fill, images, seed, low, high)
    if use_reference():
        return ErasedTopN(
            *reference.erase_top_n(images, attention, n, fill=fill, seed=seed, low=low, high=high)
        )
    return ErasedTopN(*_run(images, tensor, attention, None, n, rule)[:2])


def sample_rects(
    batch: int,
    count: int,
    height: int,
    width: int | None = None,
    *,
    max_height: int | None = None,
    max_width: int | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Random rectangles for `erase_regions`, drawn as published.

    Heights are uniform in 1 .. max_height, widths in 1 .. max_width, and the rows above the anchor
    uniform in 1 .. height, the columns left of it in 1 .. width, each independently.

    Args:
        batch: B, at least 0.
        count: rectangles per image N, at least 0.
        height: of the images.
        width: of the images; None for square ones.
        max_height: of a rectangle; None for round(120 / 224 * height), the published share.
        max_width: of a rectangle; None for round(120 / 224 * width).
        generator: source of randomness, on `device`; None for torch's default one.
        device: of the result and of the generator; None for the generator's, else the CPU.

    Returns:
        ``[B, N, 4]`` int64: h, w, sh, sw.

    Raises:
        TypeError: a size is not an integer.
        ValueError: a size is out of range.

    Source: RFM (Wang and Deng, arXiv 2104.06609), whose code draws this way with 120 at 224.
    """
    width = height if width is None else width
    max_height = max(1, round(120 / 224 * height)) if max_height is None else max_height
    max_width = max(1, round(120 / 224 * width)) if max_width is None else max_width
    for name, value, least in (
        ("batch", batch, 0), ("count", count, 0), ("height", height, 1), ("width", width, 1),
        ("max_height", max_height, 1), ("max_width", max_width, 1),
    ):  # fmt: skip
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    device = (generator.device if generator is not None else "cpu") if device is None else device
    shape = (batch, count)
    size = torch.stack(
        [
            torch.randint(1, most + 1, shape, generator=generator, device=device)
            for most in (max_height, max_width)
        ],
        2,
    )
    u = torch.rand((*shape, 2), generator=generator, device=device, dtype=torch.float64)
    before = torch.minimum((u * size).long() + 1, size)  # u < 1, but the product is rounded
    return torch.cat((size, before), 2)


class _Rule(NamedTuple):
    """How to fill, as the kernels take it; see `Fill` in csrc/erase/erase.h."""

    kind: int
    value: float = 0.0
    span: float = 0.0
    lowest: float = 0.0
    highest: float = 0.0
    seed: int = 0
    seed_tensor: Tensor | None = None


def _inputs(images: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
    _check.floating("images", images)
    _check.floating("attention", attention)
    _check.same_device("attention", attention, "images", images)
    if images.ndim != 4:
        raise ValueError(f"images must be [B, C, H, W], got shape {_check.shape_of(images)}")
    batch, _, height, width = images.shape
    if height == 0 or width == 0:
        raise ValueError(f"images must be at least 1 x 1, got {height} x {width}")
    if attention.ndim != 4 or attention.shape[0] != batch or attention.shape[1] != 1:
        raise ValueError(
            f"attention must be [B, 1, h, w] = ({batch}, 1, h, w), "
            f"got shape {_check.shape_of(attention)}"
        )
    if attention.shape[2] == 0 or attention.shape[3] == 0:
        raise ValueError(
            f"attention must be at least 1 x 1, got {attention.shape[2]} x {attention.shape[3]}"
        )
    return images, attention.detach()


def _rule(
    fill: str | float | Tensor, images: Tensor, seed: int | Tensor | None, low: float, high: float
) -> tuple[_Rule, Tensor | None]:
    """The rule, and the tensor that holds the fill where it is one."""
    if isinstance(fill, Tensor):
        _check.floating("fill", fill)
        _check.same_device("fill", fill, "images", images)
        if fill.ndim > 4 or any(
            f not in (1, s)
            for f, s in zip(reversed(fill.shape), reversed(images.shape), strict=False)
        ):
            raise ValueError(
                "fill must be broadcastable to the shape of images "
                f"{_check.shape_of(images)}, got shape {_check.shape_of(fill)}"
            )
    elif isinstance(fill, str):
        if fill not in _FILLS:
            choices = ", ".join(repr(f) for f in _FILLS)
            raise ValueError(f"fill must be one of {choices}, a number or a tensor, got {fill!r}")
    elif isinstance(fill, bool) or not isinstance(fill, (int, float)):
        raise TypeError(f"fill must be a string, a number or a tensor, got {type(fill).__name__}")
    if isinstance(fill, str) and fill == "noise":
        return _noise_rule(images, seed, low, high), None
    if seed is not None:
        raise ValueError('seed is for fill="noise"')
    if isinstance(fill, Tensor):
        return _Rule(_TENSOR), fill
    if fill == "mean":
        return _Rule(_TENSOR), images.mean((2, 3), keepdim=True)
    return _Rule(_CONSTANT, 0.0 if isinstance(fill, str) else float(fill)), None


def _noise_rule(images: Tensor, seed: int | Tensor | None, low: float, high: float) -> _Rule:
    if seed is None:
        raise ValueError('fill="noise" needs a seed')
    if isinstance(seed, Tensor):
        _check.tensor("seed", seed)
        if seed.dtype is not torch.int64:
            raise TypeError(f"seed must be int64, got {str(seed.dtype)[6:]}")
        if seed.numel() != 1:
            raise ValueError(f"seed must have one element, got shape {_check.shape_of(seed)}")
        _check.same_device("seed", seed, "images", images)
    elif isinstance(seed, bool) or not isinstance(seed, (int, torch.SymInt)):
        raise TypeError(f"seed must be an integer or a tensor, got {type(seed).__name__}")
    elif not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed must be a 64-bit integer, got {seed}")
    for name, value in (("low", low), ("high", high)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    most = torch.finfo(images.dtype).max
    dtype = str(images.dtype)[6:]
    if not -most <= low < high <= most:
        raise ValueError(f"low < high must be finite numbers of {dtype}, got {low} and {high}")
    low, high = float(low), float(high)
    lowest, highest = reference.noise_limits(low, high, images.dtype)
    if lowest > highest:
        raise ValueError(f"there is no {dtype} number in [low, high) = [{low}, {high})")
    if isinstance(seed, Tensor):
        return _Rule(_NOISE, low, high - low, lowest, highest, 0, seed)
    return _Rule(_NOISE, low, high - low, lowest, highest, seed)


def _check_rects(rects: Tensor) -> None:
    """What the binding checks for kernels on the CPU."""
    for height, width in rects[..., :2].flatten(0, 1).tolist():
        if height < 1 or width < 1:
            raise ValueError(
                f"rects must have heights and widths of at least 1, got {height} x {width}"
            )


def _run(
    images: Tensor,
    tensor: Tensor | None,
    attention: Tensor,
    rects: Tensor | None,
    count: int,
    rule: _Rule,
) -> tuple[Tensor, ...]:
    # 16-bit maps are widened, which is exact; kernels then know two dtypes of maps, not four.
    wide = _check.wide_dtype(attention)
    attention = _check.resolve_neg(attention).to(wide).contiguous()
    if rects is not None:
        rects = rects.to(torch.int64).contiguous()
    if torch.is_grad_enabled() and (
        images.requires_grad or (tensor is not None and tensor.requires_grad)
    ):
        outputs: tuple[Tensor, ...] = _Erase.apply(images, tensor, attention, rects, count, *rule)
        return outputs
    return _forward(images, tensor, attention, rects, count, rule)


def _forward(
    images: Tensor,
    tensor: Tensor | None,
    attention: Tensor,
    rects: Tensor | None,
    count: int,
    rule: _Rule,
) -> tuple[Tensor, ...]:
    images = _check.resolve_neg(images)
    if not images.is_contiguous() and not images.is_contiguous(memory_format=torch.channels_last):
        images = images.contiguous()
    batch, _, height, width = images.shape
    fill = None
    if tensor is not None:
        fill = _check.resolve_neg(tensor).to(images.dtype).expand(images.shape)
    out = torch.empty_like(images)
    mask = images.new_empty((batch, 1, height, width), dtype=torch.bool)
    options = (
        rule.kind, rule.value, rule.span, rule.lowest, rule.highest, rule.seed, rule.seed_tensor,
        fill,
    )  # fmt: skip
    if rects is None:
        launch(_TOP_N, images, attention, count, *options, out, mask)
        return out, mask
    anchors = rects.new_empty(rects.shape[:2])
    launch(_REGIONS, images, attention, rects, *options, out, mask, anchors)
    return out, mask, anchors


class _Erase(torch.autograd.Function):
    """Linear in the images and in the fill; so the backward pass is two selections."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, tensor: Tensor | None, attention: Tensor, rects: Tensor | None,
        count: int, *rule: Any,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        outputs = _forward(images, tensor, attention, rects, count, _Rule(*rule))
        ctx.mark_non_differentiable(*outputs[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(outputs[1])
        ctx.fill = None if tensor is None else (tensor.shape, tensor.dtype)
        return outputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        (mask,) = ctx.saved_tensors
        d_images = d_fill = None
        if grad is not None and ctx.needs_input_grad[0]:
            d_images = torch.where(mask, 0, grad)
        if grad is not None and ctx.needs_input_grad[1]:
            shape, dtype = ctx.fill
            d_fill = torch.where(mask, grad, 0).sum_to_size(shape).to(dtype)
        return d_images, d_fill, *(None for _ in range(10))
