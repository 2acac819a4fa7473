"""One OpSpec per public op: what test_ops.py generates its tests from, and what the benchmarks and
the support table rely on. A new op family adds its specs at the end of this file.

Samples are made in float64 on the CPU; tests convert them to the dtype and device they need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from facekernels import ops, reference


@dataclass(frozen=True)
class Sample:
    """Arguments of one call. `small` samples are cheap enough for gradcheck and emulation."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    small: bool = True
    # Positions of arguments that stay float32 in a 16-bit call.
    wide: tuple[int, ...] = ()

    def to(self, dtype: torch.dtype, device: str = "cpu") -> Sample:
        """The same call with floating-point tensors of `dtype`; strides are kept."""

        def convert(position: int, a: Any) -> Any:
            if not isinstance(a, Tensor):
                return a
            if not a.is_floating_point():
                return a.to(device)
            as_wide = position in self.wide and dtype is not torch.float64
            return a.to(
                device=device,
                dtype=torch.float32 if as_wide else dtype,
                memory_format=torch.preserve_format,
            )

        args = tuple(convert(i, a) for i, a in enumerate(self.args))
        return Sample(self.name, args, self.kwargs, self.small, self.wide)

    @property
    def tensors(self) -> tuple[int, ...]:
        """Positions of the floating-point tensor arguments."""
        return tuple(
            i for i, a in enumerate(self.args) if isinstance(a, Tensor) and a.is_floating_point()
        )


@dataclass(frozen=True)
class OpSpec:
    """A public op, its oracle and its properties."""

    name: str
    op: Callable[..., Any]
    reference: Callable[..., Any]
    samples: Callable[[], Iterator[Sample]]
    # Differentiable arguments, by position; empty for ops without a gradient.
    differentiable: tuple[int, ...] = ()
    # Largest error of the float32 kernel against the float64 reference, relative to max(1, |ref|):
    # measured worst case over all samples x 2.
    tolerance: float = 1e-5
    # vmap, grad, jvp of torch.func.
    transforms: bool = True

    def __call__(self, sample: Sample) -> tuple[Tensor, ...]:
        return as_tuple(self.op(*sample.args, **sample.kwargs))

    def expected(self, sample: Sample) -> tuple[Tensor, ...]:
        return as_tuple(self.reference(*sample.args, **sample.kwargs))


def as_tuple(result: Any) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


def channels_last(x: Tensor) -> Tensor:
    """The same values with the channel dimension (third from last) fastest in memory."""
    return x.movedim(-3, -1).contiguous().movedim(-1, -3)


def sliced(x: Tensor) -> Tensor:
    """The same values as a view into a larger tensor: every leading stride is larger."""
    wide = x.new_full((*x.shape[:-3], x.shape[-3] + 2, *x.shape[-2:]), float("nan"))
    wide[..., 1:-1, :, :] = x
    return wide[..., 1:-1, :, :]


def _gate_weights(gen: torch.Generator, *shape: int) -> tuple[Tensor, ...]:
    groups, channels, hidden = shape
    sizes = [
        (groups, hidden, channels),
        (groups, hidden),
        (groups, channels, hidden),
        (groups, channels),
    ]
    return tuple(torch.randn(s, generator=gen, dtype=torch.float64) * 0.5 for s in sizes)


def _mlca_samples(pools: tuple[str, ...] = ()) -> Iterator[Sample]:
    gen = torch.Generator().manual_seed(1)
    # G, B, C, R, H, W: odd sizes, one position, fewer positions than a vector, one channel,
    # exactly a vector of channels, a long row, empty batch and empty channels.
    shapes = {
        "odd": (2, 3, 5, 2, 3, 5),
        "face": (3, 2, 18, 4, 7, 7),
        "one_position": (1, 2, 4, 1, 1, 1),
        "one_channel": (2, 2, 1, 1, 4, 9),
        "many_channels": (1, 1, 77, 5, 2, 2),
        "long": (1, 2, 19, 2, 34, 33),
        "large": (2, 9, 64, 4, 14, 14),
        "many_samples": (1, 35, 20, 37, 2, 3),
        "empty_batch": (2, 0, 6, 2, 3, 3),
        "no_hidden": (1, 2, 6, 0, 3, 3),
    }
    for name, (g, b, c, r, h, w) in shapes.items():
        x = torch.randn(g, b, c, h, w, generator=gen, dtype=torch.float64)
        weights = _gate_weights(gen, g, c, r)
        small = x.numel() < 2000
        layouts = {"": lambda t: t, "-channels_last": channels_last, "-sliced": sliced}
        for suffix, layout in (
            layouts.items() if name in ("odd", "face", "large") else [("", sliced)]
        ):
            for pool in pools or (None,):
                kwargs = {} if pool is None else {"pool": pool}
                label = f"{name}{suffix}" + (f"-{pool}" if pool else "")
                yield Sample(label, (layout(x), *weights), kwargs, small)
    wide = torch.randn(1, 2, 3, 4, 8, generator=gen, dtype=torch.float64)
    for name, x in {"column": wide[..., :1], "spread_column": wide[..., :2, ::8]}.items():
        yield Sample(name, (x, *_gate_weights(gen, 1, 3, 2)))
    four_d = torch.randn(2, 8, 3, 3, generator=gen, dtype=torch.float64)
    yield Sample("four_dimensional", (four_d, *(w[0] for w in _gate_weights(gen, 1, 8, 2))))


def _reference_4d(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def wrapped(x: Tensor, *weights: Tensor, **kwargs: Any) -> Tensor:
        if x.ndim == 4:
            return function(x[None], *(w[None] for w in weights), **kwargs)[0]
        return function(x, *weights, **kwargs)

    return wrapped


def _gaussians(gen: torch.Generator, count: int, *sizes: int) -> Tensor:
    """[count, *sizes], one bump each, away from pixel centres and from the border."""
    maps = torch.ones(count, *(1 for _ in sizes), dtype=torch.float64)
    for dim, size in enumerate(sizes, 1):
        shape = [-1 if d == dim else 1 for d in range(len(sizes) + 1)]
        at = 3.2 + (size - 6.4) * torch.rand(count, generator=gen, dtype=torch.float64)
        # Offsets differ by axis: neighbours must not tie.
        at = (at.floor() + 0.1 + 0.1 * dim).view(-1, *(1 for _ in sizes))
        maps = maps * torch.exp(
            -((torch.arange(size, dtype=torch.float64).view(shape) - at) ** 2) / 8
        )
    return maps


_MARGINS = {
    "cosface": (1.0, 0.0, 0.4),
    "arcface": (1.0, 0.5, 0.0),
    "combined": (0.9, 0.4, 0.15),
}


def _margin_samples() -> Iterator[Sample]:
    """Whole and broken blocks of classes, tiles of rows, vectors of elements; no row, one class."""
    gen = torch.Generator().manual_seed(7)
    shapes = {  # B, V, D
        "odd": (5, 23, 7),
        "whole": (4, 48, 16),
        "one_row": (1, 9, 40),
        "one_class": (3, 1, 4),
        "many_rows": (70, 11, 5),
        "several_blocks": (67, 250, 3),
        "wide": (3, 13, 130),
        "large": (33, 2100, 96),
        "empty_batch": (0, 6, 4),
    }
    for name, (b, v, d) in shapes.items():
        e, w = (torch.randn(n, d, generator=gen, dtype=torch.float64) for n in (b, v))
        labels = torch.arange(b) * 7 % v
        labels[1:2] = -1
        for margin, margins in (
            _MARGINS.items() if name in ("odd", "large") else [("", (1, 0, 0.3))]
        ):
            options = {"s": 12.0, "margins": margins, "reduction": "sum" if b % 2 else "none"}
            label = f"{name}-{margin}" if margin else name
            yield Sample(label, (e, w, labels), options, small=b * v * d < 20000)


def _sampled_margin_samples() -> Iterator[Sample]:
    gen = torch.Generator().manual_seed(8)
    for name, (b, v, d, step) in {"third": (6, 31, 9, 3), "all": (3, 20, 17, 1)}.items():
        e, w = (torch.randn(n, d, generator=gen, dtype=torch.float64) for n in (b, v))
        index = torch.arange(v)[step - 1 :: step]
        labels = index[torch.arange(b) * 5 % len(index)]
        yield Sample(name, (e, w, labels, index), {"s": 12.0, "reduction": "mean"})


def _decode_samples() -> Iterator[Sample]:
    gen = torch.Generator().manual_seed(3)
    maps = _gaussians(gen, 6, 19, 13).view(2, 3, 19, 13)
    for method in ("argmax", "shift", "dark", "udp", "udp_combined", "megvii", "mspn"):
        yield Sample(method, (maps,), {"method": method, "kernel": 5})
    yield Sample("channels_last", (channels_last(maps),), {"method": "dark"})
    yield Sample("sliced", (sliced(maps),), {"method": "udp"})
    yield Sample("vitpose", (maps,), {"method": "udp", "compat": "vitpose", "kernel": 3})
    large = _gaussians(gen, 34, 72, 66).view(2, 17, 72, 66)
    yield Sample("large", (large,), {"method": "dark"}, small=False)
    yield Sample("empty_batch", (maps[:0],))
    yield Sample("no_joints", (maps[:, :0],))


def _simcc_samples() -> Iterator[Sample]:
    gen = torch.Generator().manual_seed(4)
    x, y = (_gaussians(gen, 6, n).view(2, 3, n) for n in (96, 128))
    for method in ("argmax", "dark"):
        yield Sample(method, (x, y), {"method": method})
    yield Sample("empty_batch", (x[:0], y[:0]))


def _heatmap_samples(*arguments: Any) -> Iterator[Sample]:
    """Noise with one clear peak; a border peak, odd and tiny maps, strided maps, empty batches."""
    gen = torch.Generator().manual_seed(2)
    shapes = {
        "odd": (2, 3, 5, 7),
        "pose": (2, 3, 17, 12),
        "one_pixel": (2, 2, 1, 1),
        "one_row": (1, 2, 1, 9),
        "one_column": (1, 2, 9, 1),
        "large": (3, 5, 64, 48),
        "wide": (1, 2, 33, 130),
        "empty_batch": (0, 3, 4, 4),
        "no_keypoints": (2, 0, 4, 4),
    }
    for name, (b, k, h, w) in shapes.items():
        maps = torch.rand(b, k, h, w, generator=gen, dtype=torch.float64) * 0.2
        for i in range(b * k):
            maps.view(b * k, h, w)[i, (5 * i) % h, (7 * i + 2) % w] += 0.7
        every = name in ("pose", "large")
        layouts = {"": lambda t: t, "-channels_last": channels_last, "-sliced": sliced}
        for suffix, layout in layouts.items() if every else [("", lambda t: t)]:
            yield Sample(name + suffix, (layout(maps), *arguments), small=maps.numel() < 2000)


def _peak_samples() -> Iterator[Sample]:
    gen = torch.Generator().manual_seed(5)
    noise = torch.rand(2, 3, 21, 37, generator=gen, dtype=torch.float64).float().double()
    plateaus = (noise * 6).round() / 6
    for name, maps in {"noise": noise, "plateaus": plateaus}.items():
        for strict in (False, True):
            label = f"{name}-{'strict' if strict else 'ties'}"
            yield Sample(label, (maps,), {"topk": 9, "strict": strict})
    yield Sample("window_5", (plateaus,), {"kernel": 5, "topk": 200, "threshold": 0.5})
    yield Sample("channels_last", (channels_last(noise),), {"topk": 5})
    yield Sample("sliced", (sliced(noise),), {"topk": 5})
    yield Sample("window_exceeds_map", (noise[..., :2, :3],), {"kernel": 9, "topk": 8})
    yield Sample("no_peaks_wanted", (noise,), {"topk": 0})
    yield Sample("empty_batch", (noise[:0],), {"topk": 3})


def _sga_inputs(
    gen: torch.Generator, perturbations: int, batch: int, *sizes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Images, delta, gradients whose sums stay away from 0 or are exactly 0.

    Values are multiples of 1/256, so that 16-bit formats hold them and every sum is exact.
    """

    def grid(*shape: int) -> Tensor:
        return torch.randint(-256, 257, shape, generator=gen).double() / 256

    images = grid(batch + 2, *sizes).abs()
    delta = grid(perturbations, *sizes) / 16
    grad = grid(perturbations, batch, *sizes)
    grad = torch.where(grad.sum(1, keepdim=True).abs() < 1 / 8, 0, grad)
    return images, delta, grad


_SGA_SHAPES = {
    # U, b, C, H, W: odd and tiny planes, one channel, more samples than one group of rows, a plane
    # longer than a block.
    "face": (1, 5, 3, 8, 8),
    "odd": (1, 3, 3, 5, 7),
    "several": (2, 6, 1, 9, 4),
    "one_pixel": (2, 1, 2, 1, 1),
    "large": (2, 9, 3, 61, 47),
}


def _uap_samples() -> Iterator[Sample]:
    gen = torch.Generator().manual_seed(6)
    for name, (u, b, *sizes) in _SGA_SHAPES.items():
        images, delta, _ = _sga_inputs(gen, u, b, *sizes)
        mean, std = (torch.rand(sizes[0], generator=gen).double() + 0.3 for _ in range(2))
        index = torch.randint(0, b + 2, (u, b), generator=gen)
        small = images.numel() < 1000
        wide = (0, 1, 2, 3)
        yield Sample(name, (images, delta, mean, std, index), {}, small, wide)
        if small:
            yield Sample(f"{name}-all_rows", (images, delta[0]), {}, small, wide)
            yield Sample(f"{name}-bytes", ((images * 255).byte(), delta), {}, small, wide)
    yield Sample("sliced", (sliced(images), delta, mean, std, index[0]), {}, False, wide)
    yield Sample("channels_last", (channels_last(images), delta), {}, False, wide)
    yield Sample("empty", (images, delta, mean, std, index[:, :0]), {}, True, wide)


def _inner_samples() -> Iterator[Sample]:
    gen = torch.Generator().manual_seed(7)
    for name, (u, b, *sizes) in _SGA_SHAPES.items():
        images, delta, grad = _sga_inputs(gen, u, b, *sizes)
        std = torch.tensor([0.5, 0.25, 1.0])[: sizes[0]].double()
        index = torch.randint(0, b + 2, (u, b), generator=gen)
        accumulator = torch.randn(delta.shape, generator=gen).double()
        small = images.numel() < 1000
        step = {"step": 1 / 128, "epsilon": 1 / 16}
        wide = (1, 2, 3, 4, 5)
        for label, source in {"": images, "-bytes": (images * 255).byte()}.items():
            arguments = (grad, source, delta, accumulator, std, index)
            yield Sample(name + label, arguments, step, small, wide)
        if u == 1:
            arguments = (grad[0], images[:b], delta[0], accumulator[0])
            yield Sample(f"{name}-all_rows", arguments, step, small, wide)
    arguments = (channels_last(grad), images, delta, accumulator, std, index)
    yield Sample("channels_last", arguments, step, False, wide)
    yield Sample("sliced", (sliced(grad), *arguments[1:]), step, False, wide)


def _outer_samples() -> Iterator[Sample]:
    gen = torch.Generator().manual_seed(8)
    for name, (u, _, *sizes) in _SGA_SHAPES.items():
        _, delta, grad = _sga_inputs(gen, u, 2, *sizes)
        velocity = torch.randn(delta.shape, generator=gen).double() / 16
        accumulator = grad.sum(1)
        step = {"step": 1 / 128, "epsilon": 1 / 16}
        small = delta.numel() < 1000
        wide = (0, 1, 2)
        yield Sample(name, (accumulator, delta), step, small, wide)
        with_momentum = {**step, "momentum": 0.9}
        yield Sample(f"{name}-momentum", (accumulator, delta, velocity), with_momentum, small, wide)
        still = (torch.zeros_like(delta), delta, velocity)
        yield Sample(f"{name}-still", still, with_momentum, small, wide)


def _aggregate_samples() -> Iterator[Sample]:
    gen = torch.Generator().manual_seed(9)
    for name, (u, b, *sizes) in _SGA_SHAPES.items():
        _, delta, grad = _sga_inputs(gen, u, b, *sizes)
        step = {"step": 1 / 128, "epsilon": 1 / 16}
        small = grad.numel() < 1500
        yield Sample(name, (grad, delta), step, small, (1,))
        if u == 1:
            yield Sample(f"{name}-single", (grad[0], delta[0]), step, small, (1,))
        ensemble = torch.stack((grad, grad.flip(1)), 1).unsqueeze(3)  # [U, E, M, 1, C, H, W]
        weights = {**step, "weights": [0.25, 0.75]}
        yield Sample(f"{name}-ensemble", (ensemble, delta), weights, small, (1,))
    yield Sample("channels_last", (channels_last(grad), delta), step, False, (1,))


def _inner_step(
    grad: Tensor,
    images: Tensor,
    delta: Tensor,
    accumulator: Tensor,
    std: Tensor | None = None,
    index: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """`sga_inner_step_` on copies."""
    delta, accumulator = delta.clone(), accumulator.clone()
    ops.sga_inner_step_(grad, images, delta, accumulator, index=index, std=std, **kwargs)
    return delta, accumulator


def _inner_reference(
    grad: Tensor,
    images: Tensor,
    delta: Tensor,
    accumulator: Tensor,
    std: Tensor | None = None,
    index: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, ...]:
    if delta.ndim == 4:
        return reference.sga_inner_step(
            grad, images, delta, accumulator, index=index, std=std, **kwargs
        )
    results = reference.sga_inner_step(
        grad[None], images, delta[None], accumulator[None], index=index, std=std, **kwargs
    )
    return tuple(r[0] for r in results)


def _outer_step(
    accumulator: Tensor, delta: Tensor, velocity: Tensor | None = None, **kwargs: Any
) -> tuple[Tensor, ...]:
    """`sga_outer_step_` on copies."""
    delta, accumulator = delta.clone(), accumulator.clone()
    velocity = None if velocity is None else velocity.clone()
    ops.sga_outer_step_(delta, accumulator, velocity, **kwargs)
    return (delta, accumulator) if velocity is None else (delta, accumulator, velocity)


def _outer_reference(
    accumulator: Tensor, delta: Tensor, velocity: Tensor | None = None, **kwargs: Any
) -> tuple[Tensor, ...]:
    delta, velocity = reference.sga_outer_step(delta, accumulator, velocity, **kwargs)
    cleared = torch.zeros_like(accumulator)
    return (delta, cleared) if velocity is None else (delta, cleared, velocity)


def _uap_reference(images: Tensor, delta: Tensor, *args: Any) -> Tensor:
    if delta.ndim == 4:
        return reference.uap_apply(images, delta, *args)
    return reference.uap_apply(images, delta[None], *args)[0]


def _aggregate_reference(
    grads: Tensor, delta: Tensor, *, weights: list[float] | None = None, **kwargs: Any
) -> Tensor:
    one = delta.ndim == 3
    if one:
        grads, delta = grads[None], delta[None]
    if weights is None:
        return reference.sga_aggregate(grads[:, None], delta, **kwargs)[0 if one else ...]
    vector = torch.tensor(weights, dtype=delta.dtype, device=delta.device)
    return reference.sga_aggregate(grads.flatten(2, 3), delta, weights=vector, **kwargs)


def _erase_inputs(gen: torch.Generator, *shape: int) -> tuple[Tensor, Tensor]:
    """Images, and a map of small integers: exact in every dtype, and with many ties."""
    batch, _, height, width = shape
    images = torch.randn(shape, generator=gen, dtype=torch.float64)
    attention = torch.randint(-20, 100, (batch, 1, height, width), generator=gen).double()
    return images, attention


def _erase_region_samples() -> Iterator[Sample]:
    gen = torch.Generator().manual_seed(6)
    images, attention = _erase_inputs(gen, 2, 3, 17, 13)
    rects = ops.sample_rects(2, 3, 17, 13, generator=gen)
    fills: dict[str, dict[str, Any]] = {
        "zero": {},
        "mean": {"fill": "mean"},
        "number": {"fill": 0.5},
        "noise": {"fill": "noise", "seed": 2**40 + 7},
        "noise_low_high": {"fill": "noise", "seed": torch.tensor(-3), "low": 0.25, "high": 0.75},
    }
    for name, kwargs in fills.items():
        yield Sample(name, (images, attention, rects), kwargs)
    tensor = torch.randn(2, 3, 17, 13, generator=gen, dtype=torch.float64)
    shapes = {"tensor": tensor, "row": tensor[:, :1, :1], "spread": tensor[0, :, :1, :1]}
    for name, fill in shapes.items():
        yield Sample(name, (images, attention, rects, fill))
    yield Sample("channels_last", (channels_last(images), attention, rects), {"fill": "mean"})
    yield Sample("sliced", (sliced(images), attention, rects), {"fill": "noise", "seed": 1})
    yield Sample("one_pixel", (images[:, :, :1, :1], attention[:, :, :1, :1], rects))
    few = (images[..., :2, :2], attention[..., :2, :2], rects[:, :1].repeat(1, 6, 1).clamp(max=1))
    yield Sample("more_rounds_than_pixels", few)
    yield Sample("no_rounds", (images, attention, rects[:, :0]))
    yield Sample("empty_batch", (images[:0], attention[:0], rects[:0]))
    # Groups of four, and too large for shared memory.
    images, attention = _erase_inputs(gen, 2, 2, 128, 132)
    rects = ops.sample_rects(2, 4, 128, 132, generator=gen)
    for name in ("zero", "noise"):
        yield Sample(f"large_{name}", (images, attention, rects), fills[name])


def _erase_top_n_samples() -> Iterator[Sample]:
    gen = torch.Generator().manual_seed(7)
    images, attention = _erase_inputs(gen, 2, 3, 16, 24)
    yield Sample("ties", (images, attention, 77))
    yield Sample("mean", (images, attention, 40), {"fill": "mean"})
    yield Sample("noise", (images, attention, 200), {"fill": "noise", "seed": 5})
    yield Sample("tensor", (images, attention, 200), {"fill": images[:1].flip(3)})
    yield Sample("fraction", (images, attention), {"fraction": 0.1, "fill": -2.0})
    yield Sample("resized", (images, attention[..., :4, :6], 50))
    yield Sample("resized_down", (images[..., :8, :12], attention, 9), {"fill": "mean"})
    yield Sample("odd", (images[..., :7, :5], attention[..., :7, :5], 6))
    yield Sample("channels_last", (channels_last(images), attention, 60), {"fill": "mean"})
    yield Sample("none", (images, attention, 0))
    yield Sample("all", (images, attention, 16 * 24))
    yield Sample("empty_batch", (images[:0], attention[:0], 3))
    images, attention = _erase_inputs(gen, 2, 1, 128, 136)
    yield Sample("large", (images, attention, 1741))
    yield Sample("large_resized", (images, attention[..., :16, :17], 1741))


def _attention_samples() -> Iterator[Sample]:
    gen = torch.Generator().manual_seed(10)
    # B, C, H, W: odd sizes, one channel, one pixel, more channels than a group of rows, a map
    # longer than a block.
    shapes = {
        "odd": (2, 3, 5, 3),
        "image": (2, 3, 9, 8),
        "one_channel": (1, 1, 3, 4),
        "one_pixel": (2, 5, 1, 1),
        "face": (3, 18, 7, 7),
        "large": (2, 6, 41, 33),
        "empty_batch": (0, 3, 4, 4),
    }
    for name, shape in shapes.items():
        # Away from 0 and from each other, where the maps have kinks.
        grad = torch.randn(shape, generator=gen, dtype=torch.float64)
        grad = grad + grad.sign() / 8
        features = torch.randn(shape, generator=gen, dtype=torch.float64) + 0.5
        small = grad.numel() < 1000
        for reduce in ("absmax", "abssum", "l2"):
            yield Sample(f"{name}-{reduce}", (grad, None), {"reduce": reduce}, small)
        yield Sample(f"{name}-gradcam", (grad, features), {"reduce": "gradcam"}, small)
        if name == "odd":
            for normalize in ("max", "minmax", "sum", "l2"):
                options = {"normalize": normalize, "size": (7, 4)}
                yield Sample(f"{name}-{normalize}", (grad, None), options, small)
        if name in ("image", "large"):
            options = {"reduce": "gradcam"}
            for label, layout in {"channels_last": channels_last, "sliced": sliced}.items():
                yield Sample(f"{name}-{label}", (layout(grad), layout(features)), options, small)
                yield Sample(f"{name}-{label}-absmax", (layout(grad), None), {}, small)


def _neighbor_samples() -> Iterator[Sample]:
    gen = torch.Generator().manual_seed(7)

    def graph(rows: int, sources: int, most: int) -> tuple[Tensor, Tensor]:
        degrees = torch.randint(0, most + 1, (rows,), generator=gen)
        indptr = torch.cat((torch.zeros(1, dtype=torch.int64), degrees.cumsum(0)))
        return indptr, torch.randint(0, max(sources, 1), (int(indptr[-1]),), generator=gen)

    # rows, sources, features, largest degree: odd widths, fewer features than a vector, more than
    # a block of vectors, rows without neighbours, empty ones.
    shapes = {
        "odd": (5, 7, 3, 4),
        "vector": (9, 6, 32, 3),
        "wide": (6, 5, 301, 5),
        "one_feature": (4, 3, 1, 6),
        "no_edges": (3, 2, 5, 0),
        "no_rows": (0, 4, 5, 3),
        "no_features": (3, 4, 0, 3),
    }
    for name, (rows, sources, features, most) in shapes.items():
        x = torch.randn(sources, features, generator=gen, dtype=torch.float64)
        indptr, indices = graph(rows, sources, most)
        yield Sample(name, (x, indptr, indices))
        weights = torch.randn(len(indices), generator=gen, dtype=torch.float64)
        yield Sample(f"{name}-weights", (x, indptr, indices, weights))
    x = torch.randn(300, 200, generator=gen, dtype=torch.float64)
    yield Sample("large", (x, *graph(400, 300, 20)), small=False)
    yield Sample("strided", (x[:40, ::3], *graph(50, 40, 5)))
    # A symmetric graph: a path with one isolated node.
    indptr = torch.tensor([0, 1, 3, 4, 4])
    indices = torch.tensor([1, 0, 2, 1])
    yield Sample("symmetric", (x[:4, :9], indptr, indices), {"symmetric": True})


def _conv_pool_samples() -> Iterator[Sample]:
    """Twice each: by the automatic choice, and structured whatever its speed."""
    gen = torch.Generator().manual_seed(4)
    # B, I, O, H, W, kh, kw: fewer and more channels than a block, one position, kernels larger than
    # the map, oblong kernels, several chunks of samples, nothing at all.
    shapes = {
        "odd": (2, 5, 3, 3, 4, 3, 3),
        "face": (3, 35, 21, 7, 7, 3, 3),
        "one_position": (2, 3, 4, 1, 1, 3, 3),
        "pointwise": (2, 81, 4, 3, 3, 1, 1),
        "larger_than_map": (1, 2, 3, 2, 3, 5, 7),
        "oblong": (2, 9, 2, 4, 5, 1, 5),
        "chunks": (40, 17, 6, 14, 14, 3, 3),
        "no_samples": (0, 3, 4, 3, 3, 3, 3),
    }
    for name, (b, i, o, h, w, kh, kw) in shapes.items():
        x = torch.randn(b, i, h, w, generator=gen, dtype=torch.float64)
        weight = (
            torch.randn(o, i, kh, kw, generator=gen, dtype=torch.float64) * (i * kh * kw) ** -0.5
        )
        small = x.numel() * o < 100_000
        layouts = {"": lambda t: t, "-channels_last": channels_last, "-sliced": sliced}
        for suffix, layout in layouts.items() if name in ("odd", "face") else [("", sliced)]:
            yield Sample(
                f"{name}{suffix}", (layout(x), weight), {"structured_backward": True}, small
            )
    x = torch.randn(2, 3, 4, 5, generator=gen, dtype=torch.float64)
    weight = torch.randn(4, 3, 3, 3, generator=gen, dtype=torch.float64) * 0.2
    yield Sample("dense", (x, weight), {"structured_backward": False})


def _flip_samples(*options: dict[str, Any]) -> Iterator[Sample]:
    gen = torch.Generator().manual_seed(11)
    # B, C, H, W, K: a face's map, odd sizes, one position, channel and class, rows shorter and
    # longer than a vector, maps of several blocks, more classes than a thread or register tile
    # keeps, channels beyond a chunk, empty batch.
    shapes = {
        "face": (2, 10, 7, 7, 7),
        "odd": (2, 5, 3, 4, 3),
        "packed": (3, 16, 5, 5, 8),
        "one_position": (2, 6, 1, 1, 3),
        "one_channel": (2, 1, 4, 9, 2),
        "one_class": (1, 9, 3, 17, 1),
        "column": (2, 4, 9, 1, 2),
        "many_classes": (2, 11, 3, 3, 19),
        "wide": (1, 3, 2, 37, 4),
        "widest": (1, 3, 2, 300, 4),
        "blocks": (2, 7, 20, 19, 5),
        "many_channels": (3, 300, 7, 7, 7),
        "empty_batch": (0, 4, 3, 3, 2),
    }
    if "detach_weight" in (options or ({},))[0]:
        del shapes["empty_batch"]  # NaN has no finite differences
    for name, (b, c, h, w, k) in shapes.items():
        features, flipped = (
            torch.randn(b, c, h, w, generator=gen, dtype=torch.float64) for _ in range(2)
        )
        weight = torch.randn(k, c, generator=gen, dtype=torch.float64)
        class_weights = torch.rand(k, generator=gen, dtype=torch.float64)
        small = features.numel() < 3000
        layouts = {"": lambda t: t, "-channels_last": channels_last, "-sliced": sliced}
        for suffix, layout in layouts.items():
            if suffix == "-sliced" and name not in ("face", "odd", "blocks"):
                continue
            for kwargs in options or ({},):
                label = name + suffix + "".join(f"-{v}" for v in kwargs.values())
                args = (layout(features), layout(flipped), weight, class_weights)
                yield Sample(label, args, kwargs, small, wide=(2, 3))
        if name in ("face", "many_channels"):
            for label, views in {
                "-mixed": (channels_last(features), flipped),
                "-spread": (features.mT.contiguous().mT, flipped),
                "-column_gaps": (
                    channels_last(sliced(features))[:, :-1],
                    channels_last(flipped)[:, :-1],
                ),
            }.items():
                kept = weight[:, : views[0].shape[1]]
                yield Sample(
                    name + label, (*views, kept), options[0] if options else {}, small, (2,)
                )


SPECS: tuple[OpSpec, ...] = (
    OpSpec(
        "mlca_gate",
        ops.mlca_gate,
        _reference_4d(reference.mlca_gate),
        lambda: _mlca_samples(("max", "avg")),
        differentiable=(0, 1, 2, 3, 4),
    ),
    OpSpec(
        "channel_gate",
        ops.channel_gate,
        _reference_4d(reference.channel_gate),
        _mlca_samples,
        differentiable=(0, 1, 2, 3, 4),
    ),
    OpSpec(
        "conv_mean_max",
        ops.conv_mean_max,
        lambda x, weight, **_: reference.conv_mean_max(x, weight),
        _conv_pool_samples,
        differentiable=(0, 1),
    ),
    OpSpec(
        "margin_cross_entropy",
        ops.margin_cross_entropy,
        reference.margin_cross_entropy,
        _margin_samples,
        differentiable=(0, 1),
        tolerance=1e-5,
    ),
    OpSpec(
        "margin_cross_entropy",
        lambda *a, **options: ops.margin_cross_entropy(
            *a[:3], sample_index=a[3], sparse_grad=False, **options
        ),
        lambda *a, **options: reference.margin_cross_entropy(*a[:3], sample_index=a[3], **options),
        _sampled_margin_samples,
        differentiable=(0, 1),
        tolerance=1e-5,
    ),
    # A maximum's position has no gradient, so nothing is differentiable.
    OpSpec(
        "decode_heatmaps",
        ops.decode_heatmaps,
        reference.decode_heatmaps,
        _decode_samples,
        tolerance=1e-4,
        transforms=False,
    ),
    OpSpec(
        "decode_simcc",
        ops.decode_simcc,
        reference.decode_simcc,
        _simcc_samples,
        tolerance=1e-4,
        transforms=False,
    ),
    OpSpec(
        "heatmap_peaks",
        ops.heatmap_peaks,
        reference.heatmap_peaks,
        _peak_samples,
        tolerance=0,
    ),
    OpSpec(
        "soft_argmax",
        ops.soft_argmax,
        reference.soft_argmax,
        lambda: _heatmap_samples(10.0),
        differentiable=(0,),
    ),
    OpSpec(
        "local_center_of_mass",
        ops.local_center_of_mass,
        reference.local_center_of_mass,
        lambda: _heatmap_samples(2),
        differentiable=(0,),
    ),
    OpSpec("heatmap_peaks", ops.heatmap_peaks, reference.heatmap_peaks, _heatmap_samples),
    OpSpec(
        "uap_apply",
        ops.uap_apply,
        _uap_reference,
        _uap_samples,
        differentiable=(1,),
        transforms=False,  # images[index] under vmap needs a batched index
    ),
    OpSpec("sga_inner_step_", _inner_step, _inner_reference, _inner_samples, transforms=False),
    OpSpec("sga_outer_step_", _outer_step, _outer_reference, _outer_samples, transforms=False),
    OpSpec(
        "sga_aggregate",
        ops.sga_aggregate,
        _aggregate_reference,
        _aggregate_samples,
        transforms=False,
    ),
    OpSpec(
        "gradient_attention_map",
        ops.gradient_attention_map,
        reference.gradient_attention_map,
        _attention_samples,
        differentiable=(0,),
    ),
    OpSpec(
        "erase_regions",
        ops.erase_regions,
        reference.erase_regions,
        _erase_region_samples,
        differentiable=(0,),
        tolerance=1e-6,
    ),
    OpSpec(
        "erase_top_n",
        ops.erase_top_n,
        reference.erase_top_n,
        _erase_top_n_samples,
        differentiable=(0,),
        tolerance=1e-6,
    ),
    OpSpec(
        "neighbor_mean",
        ops.neighbor_mean,
        reference.neighbor_mean,
        _neighbor_samples,
        differentiable=(0,),
        tolerance=2e-6,
    ),
    OpSpec(
        "neighbor_mean",
        lambda w, x, p, i: ops.neighbor_mean(x, p, i, w),
        lambda w, x, p, i: reference.neighbor_mean(x, p, i, w),
        lambda: (
            Sample(s.name, (s.args[3], *s.args[:3]))
            for s in _neighbor_samples()
            if len(s.args) == 4
        ),
        differentiable=(0, 1),
        tolerance=2e-6,
    ),
    OpSpec(
        "cam_flip_consistency",
        ops.cam_flip_consistency,
        reference.cam_flip_consistency,
        lambda: _flip_samples({}, {"reduction": "none"}),
        differentiable=(0, 1),
        tolerance=2e-6,
    ),
    OpSpec(
        "cam_flip_consistency",
        ops.cam_flip_consistency,
        reference.cam_flip_consistency,
        lambda: _flip_samples({"detach_weight": False}),
        differentiable=(0, 1, 2),
        tolerance=4e-6,
    ),
)

# Kernels driven from Python, whose results have sizes that depend on values: no OpSpec, their own
# tests.
HOST_DRIVEN: tuple[str, ...] = (
    "connected_components",
    "knn_graph",
    "link_clusters",
    "linkage_scores",
    "pivot_subgraphs",
    "threshold_clusters",
)

# Public functions that are plain PyTorch: no kernel, so no OpSpec; they have their own tests.
PLAIN: tuple[str, ...] = (
    "encode_gaussian",
    "encode_megvii",
    "encode_simcc",
    "encode_udp",
    "encode_udp_combined",
    "encode_unbiased",
    "flip_average",
    "knn_recall",
    "label_diffusion",
    "pool_edges",
    "sample_rects",
    "transform_keypoints",
)
