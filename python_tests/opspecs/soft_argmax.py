"""Soft-argmax and local centres of mass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from facekernels import ops, reference
from opspecs.spec import OpSpec, Sample, channels_last, sliced


def heatmap_samples(*arguments: Any) -> Iterator[Sample]:
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


SPECS: tuple[OpSpec, ...] = (
    OpSpec(
        "soft_argmax",
        ops.soft_argmax,
        reference.soft_argmax,
        lambda: heatmap_samples(10.0),
        differentiable=(0,),
    ),
    OpSpec(
        "local_center_of_mass",
        ops.local_center_of_mass,
        reference.local_center_of_mass,
        lambda: heatmap_samples(2),
        differentiable=(0,),
    ),
)
