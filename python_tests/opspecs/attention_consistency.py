"""Consistency of class activation maps under a flip."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from facekernels import ops, reference
from opspecs.spec import OpSpec, Sample, channels_last, sliced


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
