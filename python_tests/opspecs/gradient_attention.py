"""Attention maps from gradients."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from facekernels import ops, reference
from opspecs.spec import OpSpec, Sample, channels_last, sliced


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


SPECS: tuple[OpSpec, ...] = (
    OpSpec(
        "gradient_attention_map",
        ops.gradient_attention_map,
        reference.gradient_attention_map,
        _attention_samples,
        differentiable=(0,),
    ),
)
