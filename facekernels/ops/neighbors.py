"""Means and weighted sums over neighbourhoods of a graph in compressed rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from facekernels import _check
from facekernels._op import Op, launch, use_reference
from facekernels.reference import neighbors as reference

_SUM = Op(
    "neighbor_sum(Tensor x, Tensor indptr, Tensor indices, int weighting, Tensor? weights, "
    "Tensor? degrees, Tensor(a!) out) -> ()"
)
_DOT = Op("neighbor_dot(Tensor a, Tensor b, Tensor indptr, Tensor indices, Tensor(a!) out) -> ()")
_WEIGHTS, _MEAN, _SOURCE_DEGREE = range(3)


def neighbor_mean(
    x: Tensor,
    indptr: Tensor,
    indices: Tensor,
    weights: Tensor | None = None,
    *,
    symmetric: bool = False,
) -> Tensor:
    """The mean of every row's neighbours, or their sum with given weights.

    Equivalent to::

        torch.sparse_csr_tensor(indptr, indices, weights_or_1 / degree) @ x

    without the matrix of edges by features that gathering makes, and with 0 for a row without
    neighbours. The backward pass is the same kernel on the transposed graph: no atomics.

    Args:
        x: ``[N, F]`` float32, float64, float16 or bfloat16; sums are kept in float32 (float64).
        indptr: ``[R + 1]`` int64 from 0 to E, not decreasing: row r has the edges
            ``indptr[r] .. indptr[r + 1]``. R may differ from N.
        indices: ``[E]`` int64 in [0, N), the neighbour at each edge.
        weights: ``[E]``, dtype of x. Without them: the mean.
        symmetric: the graph is its own transpose (R = N, and a - b comes with b - a), which spares
            the backward pass of a mean a sort. It is taken on trust.

    Returns:
        ``[R, F]``, dtype of x. Differentiable with respect to x and the weights, twice.

    Raises:
        TypeError: dtypes.
        ValueError: shapes or devices; on the CPU also a wrong indptr or an index outside. On CUDA,
            where checking would stop the stream, an index outside gives NaN.
    """
    _check.floating("x", x)
    if x.ndim != 2:
        raise ValueError(f"x must be [N, F], got shape {_check.shape_of(x)}")
    for name, t in (("indptr", indptr), ("indices", indices)):
        _check.tensor(name, t)
        if t.dtype is not torch.int64:
            raise TypeError(f"{name} must be int64, got {str(t.dtype)[6:]}")
        if t.ndim != 1 or (name == "indptr" and len(t) == 0):
            wanted = "[R + 1]" if name == "indptr" else "[E]"
            raise ValueError(f"{name} must be {wanted}, got shape {_check.shape_of(t)}")
        _check.same_device(name, t, "x", x)
    if weights is not None:
        _check.tensor("weights", weights)
        if weights.dtype != x.dtype:
            raise TypeError(
                f"weights must have the dtype of x ({str(x.dtype)[6:]}), "
                f"got {str(weights.dtype)[6:]}"
            )
        _check.shape("weights", weights, tuple(indices.shape), "[E]")
        _check.same_device("weights", weights, "x", x)
    if symmetric and len(indptr) - 1 != len(x):
        raise ValueError(
            f"symmetric needs as many rows as x ({len(x)}), got indptr for {len(indptr) - 1}"
        )
    if use_reference():
        return reference.neighbor_mean(x, indptr, indices, weights)
    needs_grad = x.requires_grad or (weights is not None and weights.requires_grad)
    if needs_grad and torch.is_grad_enabled():
        result: Tensor = _NeighborMean.apply(x, indptr, indices, weights, symmetric)
        return result
    return _forward(x, indptr, indices, weights)


def _dense(t: Tensor) -> Tensor:
    return _check.resolve_neg(t).contiguous()


def _forward(x: Tensor, indptr: Tensor, indices: Tensor, weights: Tensor | None) -> Tensor:
    weighting = _MEAN if weights is None else _WEIGHTS
    weights = None if weights is None else _dense(weights)
    return _sum(_dense(x), indptr.contiguous(), indices.contiguous(), weighting, weights, None)


def _sum(
    x: Tensor,
    indptr: Tensor,
    indices: Tensor,
    weighting: int,
    weights: Tensor | None,
    degrees: Tensor | None,
) -> Tensor:
    out = x.new_empty((indptr.shape[0] - 1, x.shape[1]))
    launch(_SUM, x, indptr, indices, weighting, weights, degrees, out)
    return out


def _transposed(indptr: Tensor, indices: Tensor, sources: int) -> tuple[Tensor, Tensor, Tensor]:
    """Indptr and indices of the transposed graph, and the edge that each of its edges was."""
    order = torch.sort(indices, stable=True)
    bounds = torch.arange(sources + 1, device=indices.device)
    new_indptr = torch.searchsorted(order.values, bounds)
    return new_indptr, reference.rows_of(indptr, indices.shape[0])[order.indices], order.indices


class _NeighborMean(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        indptr: Tensor,
        indices: Tensor,
        weights: Tensor | None,
        symmetric: bool,
    ) -> Tensor:
        ctx.save_for_backward(x if weights is not None else None, indptr, indices, weights)
        ctx.sources = x.shape[0]
        ctx.symmetric = symmetric
        return _forward(x, indptr, indices, weights)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        x, indptr, indices, weights = ctx.saved_tensors
        if torch.is_grad_enabled():
            if weights is None:
                return (
                    reference.mean_backward(d_out, indptr, indices, ctx.sources),
                    None, None, None, None,
                )  # fmt: skip
            d_x, d_weights = reference.sum_backward(x, indptr, indices, weights, d_out)
            return d_x, None, None, d_weights, None
        d_out = _dense(d_out)
        indptr, indices = indptr.contiguous(), indices.contiguous()
        if weights is None:
            degrees = indptr.diff()
            if not ctx.symmetric:
                new_indptr, new_indices, _ = _transposed(indptr, indices, ctx.sources)
            else:
                new_indptr, new_indices = indptr, indices
            d_x = _sum(d_out, new_indptr, new_indices, _SOURCE_DEGREE, None, degrees)
            return d_x, None, None, None, None
        weighted: list[Tensor | None] = [None, None]
        if ctx.needs_input_grad[0]:
            new_indptr, new_indices, edges = _transposed(indptr, indices, ctx.sources)
            moved = _dense(weights)[edges]
            weighted[0] = _sum(d_out, new_indptr, new_indices, _WEIGHTS, moved, None)
        if ctx.needs_input_grad[3]:
            d_weights = torch.empty_like(weights, memory_format=torch.contiguous_format)
            launch(_DOT, d_out, _dense(x), indptr, indices, d_weights)
            weighted[1] = d_weights
        return weighted[0], None, None, weighted[1], None
