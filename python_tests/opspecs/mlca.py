"""The gates of MLCA."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from facekernels import ops, reference
from opspecs.spec import OpSpec, Sample, channels_last, sliced


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
)
