"""Margin softmax, with all classes and with sampled ones."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from facekernels import ops, reference
from opspecs.spec import OpSpec, Sample

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


SPECS: tuple[OpSpec, ...] = (
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
)
