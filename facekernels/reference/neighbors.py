"""Neighbourhood sums in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def rows_of(indptr: Tensor, edges: int) -> Tensor:
    """The row of every edge, ``[edges]``."""
    return torch.searchsorted(indptr, torch.arange(edges, device=indptr.device), right=True) - 1


def neighbor_mean(
    x: Tensor,
    indptr: Tensor,
    indices: Tensor,
    weights: Tensor | None = None,
    *,
    symmetric: bool = False,
) -> Tensor:
    """Plain PyTorch twin of `facekernels.ops.neighbor_mean`; it needs no `symmetric`."""
    wide = torch.float64 if x.dtype is torch.float64 else torch.float32
    rows = rows_of(indptr, len(indices))
    gathered = x.to(wide)[indices]
    if weights is not None:
        gathered = gathered * weights.to(wide).unsqueeze(1)
    total = gathered.new_zeros(len(indptr) - 1, x.shape[1]).index_add(0, rows, gathered)
    if weights is None:
        total = total / indptr.diff().clamp(min=1).unsqueeze(1)
    return total.to(x.dtype)


def neighbor_dot(a: Tensor, b: Tensor, indptr: Tensor, indices: Tensor) -> Tensor:
    """``<a[row of e], b[indices[e]]>`` for every edge e."""
    wide = torch.float64 if a.dtype is torch.float64 else torch.float32
    rows = rows_of(indptr, len(indices))
    return (a.to(wide)[rows] * b.to(wide)[indices]).sum(1).to(a.dtype)


def mean_backward(d_out: Tensor, indptr: Tensor, indices: Tensor, sources: int) -> Tensor:
    """Gradient of the unweighted mean with respect to x."""
    wide = torch.float64 if d_out.dtype is torch.float64 else torch.float32
    rows = rows_of(indptr, len(indices))
    share = d_out.to(wide) / indptr.diff().clamp(min=1).unsqueeze(1)
    d_x = share.new_zeros(sources, d_out.shape[1]).index_add(0, indices, share[rows])
    return d_x.to(d_out.dtype)


def sum_backward(
    x: Tensor, indptr: Tensor, indices: Tensor, weights: Tensor, d_out: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the weighted sum with respect to x and the weights."""
    wide = torch.float64 if x.dtype is torch.float64 else torch.float32
    rows = rows_of(indptr, len(indices))
    per_edge = d_out.to(wide)[rows]
    scaled = per_edge * weights.to(wide).unsqueeze(1)
    d_x = scaled.new_zeros(x.shape).index_add(0, indices, scaled)
    d_weights = (per_edge * x.to(wide)[indices]).sum(1)
    return d_x.to(x.dtype), d_weights.to(weights.dtype)
