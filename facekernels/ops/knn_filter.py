"""What a search for nearest neighbours works on: rows to filter with, and how far they are off."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from facekernels import _check

_UNIT = 2.0**-24  # unit roundoff of float32
_HALF_STEP = 16  # elements that a tensor core multiplies at once


class Side(NamedTuple):
    """Queries or database."""

    filter: Tensor
    exact: Tensor
    scale: Tensor | None

    def part(self, rows: slice | Tensor) -> Side:
        return Side(*(None if t is None else t[rows] for t in self))  # type: ignore[arg-type]

    def cpu(self) -> Side:
        return Side(*(None if t is None else t.cpu() for t in self))  # type: ignore[arg-type]


def sides(x: Tensor, searched: Tensor, metric: str) -> tuple[Side, Side]:
    filters, scales = filter_rows(x, searched, metric)
    exact = [_exact_rows(x)]
    exact.append(exact[0] if searched is x else _exact_rows(searched))
    return (
        Side(filters[0], exact[0], None if scales is None else scales[0]),
        Side(filters[1], exact[1], None if scales is None else scales[1]),
    )


def _exact_rows(t: Tensor) -> Tensor:
    wide = _check.wide_dtype(t)
    return _check.resolve_neg(t.detach()).to(wide).contiguous()


def filter_rows(
    x: Tensor, searched: Tensor, metric: str
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor] | None]:
    """float32 rows whose inner products rank as the similarities do, and what scales exact ones.

    All rows have a norm of about 1 or less, so that nothing overflows.
    """
    same = searched is x
    norms = [_norms("x", x)]
    norms.append(norms[0] if same else _norms("database", searched))
    tensors = (x, searched)
    if metric == "cosine":
        for name, norm in zip(("x", "database"), norms, strict=True):
            zero = norm == 0
            if zero.any():
                row = int(zero.nonzero()[0])
                raise ValueError(
                    f"{name} must have no zero row for 'cosine' (nor one whose squares are zero "
                    f"in float64), got one in row {row}"
                )
        scales = [1 / n for n in norms]
        if same:
            scales[1] = scales[0]
        rows = [_scaled(t, s) for t, s in zip(tensors, scales, strict=True)]
        return (rows[0], rows[0] if same else rows[1]), (scales[0], scales[1])
    if metric == "ip":
        rows = [_scaled(t, _inverse(n.max())) for t, n in zip(tensors, norms, strict=True)]
        return (rows[0], rows[0] if same else rows[1]), None
    # -|q - x|^2 / 2 = <q, x> - |q|^2 / 2 - |x|^2 / 2, around the mean, where the terms are smallest
    center = searched.to(torch.float64).mean(0)
    centered = [t.to(torch.float64) - center for t in (tensors[:1] if same else tensors)]
    radius = max(float(torch.linalg.vector_norm(c, dim=1).max()) for c in centered) or 1.0
    centered = [c / radius for c in centered]
    half = [c.square().sum(1, keepdim=True) / 2 for c in centered]
    one = [torch.ones_like(h) for h in half]
    queries = torch.cat((centered[0], -half[0], one[0]), 1).float()
    data = torch.cat((centered[-1], one[-1], -half[-1]), 1).float()
    return (queries, data), None


def _inverse(norm: Tensor) -> Tensor:
    return torch.where(norm > 0, 1 / norm, 0.0)  # all rows zero, or their squares


def _scaled(t: Tensor, scale: Tensor) -> Tensor:
    """float32, rounded once from the float64 product."""
    out = torch.empty(t.shape, dtype=torch.float32, device=t.device)
    for part in _pieces(t):
        factor = scale[part].unsqueeze(1) if scale.ndim else scale
        out[part] = t[part].to(torch.float64) * factor
    return out


def _norms(name: str, t: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(t.detach(), dim=1, dtype=torch.float64)
    if not norms.isfinite().all():
        row = int((~t.isfinite().all(1)).nonzero()[0]) if not t.isfinite().all() else None
        if row is None:
            raise ValueError(f"{name} must have rows whose squared norm is finite in float64")
        raise ValueError(f"{name} must be finite, got NaN or infinity in row {row}")
    return norms


def half_filter(queries: Tensor, data: Tensor, metric: str) -> tuple[Tensor, Tensor, Tensor]:
    """The filter's rows in halves, and by query twice the largest error of their products.

    With halves qh and xh, <qh, xh> is off by at most |q - qh| |x| + |qh| |x - xh|. To that come the
    sums. A tensor core adds at least 4 products at once to a float, and may cut off of every term
    and of every result what is below 2**-23 of the largest term, which is at most |qh| |xh|. Those
    are D products, and at most D / 4 floats and D / 4 results: together less than 2 D cuts.
    """
    # The length of a query does not change its neighbours.
    left = _round_to_halves(queries, unit=metric == "ip")
    same = data.data_ptr() == queries.data_ptr() and len(data) == len(queries) and metric != "ip"
    right = left if same else _round_to_halves(data, unit=False)
    norm, residual = right.norm.max(), right.residual.max()
    own = left.norm + left.residual
    cuts = (2 * queries.shape[1] + 8) * 2.0**-23  # 8: what rounding to floats took before
    slack: Tensor = 2.001 * (left.residual * norm + own * residual + cuts * own * (norm + residual))
    return left.rows, right.rows, slack.clamp(max=1e6).float()


class _Halves(NamedTuple):
    rows: Tensor
    """float16, the elements padded with zeros to whole steps."""
    norm: Tensor
    """Of the rows before rounding, float64."""
    residual: Tensor
    """Norms of what rounding took, float64."""


def _round_to_halves(x: Tensor, unit: bool) -> _Halves:
    """With `unit`, of rows divided by their norms."""
    count, dim = x.shape
    padded = -(-dim // _HALF_STEP) * _HALF_STEP
    rows = torch.zeros(count, padded, dtype=torch.float16, device=x.device)
    norm, residual = (x.new_empty(count, dtype=torch.float64) for _ in range(2))
    for part in _pieces(x):
        wide = x[part].to(torch.float64)
        length = torch.linalg.vector_norm(wide, dim=1).clamp(min=1e-300)
        if unit:
            wide /= length.unsqueeze(1)
        rows[part, :dim] = wide
        norm[part] = torch.linalg.vector_norm(wide, dim=1)
        wide -= rows[part, :dim]
        residual[part] = torch.linalg.vector_norm(wide, dim=1)
        if unit:  # elements below the normal range of float were rounded more coarsely
            residual[part] += dim * 2.0**-149 / length
    return _Halves(rows, norm, residual)


def _pieces(x: Tensor) -> Iterator[slice]:
    """Some rows at a time, for memory."""
    step = max(1, (1 << 22) // x.shape[1])
    return (slice(first, first + step) for first in range(0, len(x), step))


def slack_of(queries: Tensor, data: Tensor) -> Tensor:
    """Twice the largest error of a float32 inner product of each query, rounding included.

    A sum of D products is off by at most D u / (1 - D u) times the sum of their sizes, in any
    order, and that sum is at most the product of the norms. Elements were rounded before.
    """
    depth = queries.shape[1] + 8
    relative = depth * _UNIT / (1 - depth * _UNIT)
    norms = torch.linalg.vector_norm(queries, dim=1, dtype=torch.float64)
    largest = torch.linalg.vector_norm(data, dim=1, dtype=torch.float64).max()
    tiny = depth * 2.0**-126  # elements below the normal range
    slack: Tensor = 2.001 * (relative * norms * largest + tiny)
    return slack.float()
