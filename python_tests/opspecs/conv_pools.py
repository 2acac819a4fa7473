"""Mean and maximum of a convolution."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from facekernels import ops, reference
from opspecs.spec import OpSpec, Sample, channels_last, sliced


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


SPECS: tuple[OpSpec, ...] = (
    OpSpec(
        "conv_mean_max",
        ops.conv_mean_max,
        lambda x, weight, **_: reference.conv_mean_max(x, weight),
        _conv_pool_samples,
        differentiable=(0, 1),
    ),
)
