"""Erasing of blocks and of the largest cells."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from facekernels import ops, reference
from opspecs.spec import OpSpec, Sample, channels_last, sliced


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


SPECS: tuple[OpSpec, ...] = (
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
)
