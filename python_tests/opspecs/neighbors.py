"""Means over neighbours, with respect to features and to weights."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from facekernels import ops, reference
from opspecs.spec import OpSpec, Sample


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


SPECS: tuple[OpSpec, ...] = (
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
)
