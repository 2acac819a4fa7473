"""Decoding of heatmaps and of SimCC's vectors."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from facekernels import ops, reference
from opspecs.spec import OpSpec, Sample, channels_last, sliced


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


SPECS: tuple[OpSpec, ...] = (
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
)
