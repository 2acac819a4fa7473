"""Exact nearest neighbours: the graph that clustering starts from, without an N x N matrix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from facekernels import _check
from facekernels._op import Op, backend, current_backend, launch, use_reference
from facekernels.ops.knn_approximate import faiss_search
from facekernels.reference.knn import knn_graph as _reference

_SEARCH = Op(
    "knn_search(Tensor query_filter, Tensor query, Tensor? query_scale, Tensor filter, "
    "Tensor database, Tensor? scale, int metric, bool symmetric, int self_offset, Tensor slack, "
    "Tensor(a!) candidate_score, Tensor(b!) candidate_index, Tensor(c!) candidate_count, "
    "Tensor(d!) threshold, Tensor(e!) index, Tensor(f!) score, Tensor(g!) overflow) -> ()"
)

_METRICS = ("cosine", "ip", "l2")
_METHODS = ("exact", "faiss-ivf", "hnsw")
_UNIT = 2.0**-24  # unit roundoff of float32
_MAX_CUDA_CAPACITY = 2048
_SECOND_TRY = 1 << 25  # candidates that a second search on CUDA holds at once
_HALF_STEP = 16  # elements that a tensor core multiplies at once


class KNNGraph(NamedTuple):
    """The neighbours of every row, best first."""

    idx: Tensor
    """``[N, k]`` int64, rows of the database."""
    sim: Tensor
    """``[N, k]`` float32: cosine, inner product, or minus the squared Euclidean distance."""


def knn_graph(
    x: Tensor,
    k: int,
    *,
    metric: str = "cosine",
    database: Tensor | None = None,
    exclude_self: bool = True,
    rows: tuple[int, int] | None = None,
    method: str = "exact",
    nlist: int | None = None,
    nprobe: int = 16,
    hnsw_m: int = 16,
    ef: int | None = None,
) -> KNNGraph:
    """The k nearest rows for every row.

    Equivalent to::

        similarity = F.normalize(x.double()) @ F.normalize(x.double()).T  # cosine
        similarity.fill_diagonal_(-inf)  # exclude_self
        sim, idx = similarity.topk(k)

    but of equal similarities the lower index comes first, and memory is O(N k + tiles). A filter in
    lower precision finds candidates, with a proven bound on its error; their similarities are
    computed in float64 and rounded once. So the result is that of float64 brute force, whatever the
    threads or the back end. (For float64 rows and for ``"l2"`` the last bit of a sum depends on the
    processor, and with it the order of neighbours that differ in nothing else.)

    Args:
        x: ``[N, D]``, float32, float64, float16 or bfloat16, finite. It need not be normalised.
        k: neighbours per row; at least 1, below N (at most N where a row may find itself). On CUDA
            at most 512.
        metric: ``"cosine"``, ``"ip"`` (inner product) or ``"l2"``.
        database: ``[M, D]`` of the dtype of x: where to search, instead of among the rows of x.
        exclude_self: a row does not find itself, however many rows are equal to it. Without effect
            when there is a `database`.
        rows: ``(begin, end)``: only these rows of x are queries, and the result has as many rows.
        method: ``"exact"``, or approximate by faiss (``pip install 'facekernels[scale]'``), on
            the CPU: ``"faiss-ivf"`` or ``"hnsw"``. `knn_recall` tells how close it came.
        nlist: faiss-ivf: number of cells, by default ``4 sqrt(M)``.
        nprobe: faiss-ivf: cells that are searched, at least 1.
        hnsw_m: hnsw: links per row, at least 2.
        ef: hnsw: breadth of building and searching, by default ``max(64, 2 k)``.

    Returns:
        `KNNGraph`. Indices and similarities have no gradient.

    Raises:
        TypeError: arguments of wrong types or dtypes.
        ValueError: shapes, devices, ranges; a row that is not finite or, for ``"cosine"``, zero;
            2**31 rows or more; an approximate search that found fewer than k rows.
        ImportError: an approximate method without faiss.

    Source: faiss' exact search (Johnson et al., 2017) with the selection inside the product.
    """
    _check_arguments(x, k, metric, database, rows, method)
    own = database is None and exclude_self
    searched = x if database is None else database
    _check_count(k, len(searched) - own)
    begin, end = rows if rows is not None else (0, len(x))
    if begin == end:
        return _empty(x, k, 0)
    if method == "exact" and use_reference():
        _filter_rows(x, searched, metric)  # for its errors
        return KNNGraph(
            *_reference(
                x, k, metric=metric, database=database, exclude_self=exclude_self, rows=rows
            )
        )
    with torch.no_grad():
        if method != "exact":
            _filter_rows(x, searched, metric)
            return KNNGraph(
                *faiss_search(
                    x[begin:end], k, searched, metric, begin if own else None, method,
                    nlist, nprobe, hnsw_m, ef,
                )
            )  # fmt: skip
        return _exact(x, k, metric, searched, own, begin, end)


def knn_recall(idx: Tensor, exact: Tensor) -> float:
    """The share of the exact neighbours that were found, in any order.

    Args:
        idx: ``[N, k]`` integers, the neighbours found.
        exact: ``[N, k]`` integers, those of ``knn_graph(..., method="exact")``.

    Raises:
        TypeError: not integer tensors.
        ValueError: not ``[N, k]`` of the same shape with N and k at least 1.
    """
    for name, t in (("idx", idx), ("exact", exact)):
        _check.tensor(name, t)
        if t.is_floating_point() or t.is_complex() or t.dtype is torch.bool:
            raise TypeError(f"{name} must hold integers, got {str(t.dtype)[6:]}")
    if idx.ndim != 2 or idx.numel() == 0:
        raise ValueError(f"idx must be [N, k] with N, k >= 1, got shape {_check.shape_of(idx)}")
    _check.shape("exact", exact, tuple(idx.shape), "[N, k]")
    both = torch.cat((idx, exact.to(idx)), 1).sort(dim=1).values
    return (both[:, 1:] == both[:, :-1]).sum().item() / idx.numel()


def _check_arguments(
    x: Tensor,
    k: int,
    metric: str,
    database: Tensor | None,
    rows: tuple[int, int] | None,
    method: str,
) -> None:
    _check.floating("x", x)
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"x must be [N, D] with D >= 1, got shape {_check.shape_of(x)}")
    if isinstance(k, bool) or not isinstance(k, int):
        raise TypeError(f"k must be an int, got {type(k).__name__}")
    _check.one_of("metric", metric, _METRICS)
    _check.one_of("method", method, _METHODS)
    if database is not None:
        _check.floating("database", database)
        if database.ndim != 2 or database.shape[1] != x.shape[1]:
            raise ValueError(
                f"database must be [M, {x.shape[1]}] as x has {x.shape[1]} columns, "
                f"got shape {_check.shape_of(database)}"
            )
        if database.dtype != x.dtype:
            raise TypeError(
                f"database must have the dtype of x ({str(x.dtype)[6:]}), "
                f"got {str(database.dtype)[6:]}"
            )
        _check.same_device("database", database, "x", x)
    if rows is not None and not (len(rows) == 2 and 0 <= rows[0] <= rows[1] <= len(x)):
        raise ValueError(
            f"rows must be (begin, end) with 0 <= begin <= end <= {len(x)}, got {rows}"
        )


def _check_count(k: int, available: int) -> None:
    if not 1 <= k <= available:
        raise ValueError(
            f"k must be between 1 and {max(available, 0)}, the number of rows to find, got {k}"
            if available > 0
            else f"k must be at most the number of rows to find, which is 0, got {k}"
        )
    if available >= 2**31 - 1:
        raise ValueError(f"the rows to search must be fewer than 2**31, got {available}")


def _empty(x: Tensor, k: int, count: int) -> KNNGraph:
    return KNNGraph(
        torch.empty(count, k, dtype=torch.int64, device=x.device),
        torch.empty(count, k, dtype=torch.float32, device=x.device),
    )


def _exact(
    x: Tensor, k: int, metric: str, searched: Tensor, own: bool, begin: int, end: int
) -> KNNGraph:
    """Search; then once more, with room for all rows, for queries with too many near ties."""
    queries, data = _sides(x, searched, metric)
    queries = queries.part(slice(begin, end))
    slack = _slack(queries.filter, data.filter)
    result = _empty(x, k, end - begin)
    if x.is_cuda or current_backend() == "emulated":
        lost = _search_cuda(queries, slack, data, metric, begin if own else -1, result)
    else:
        symmetric = searched is x and (begin, end) == (0, len(x))
        overflow = _search(queries, slack, data, metric, symmetric, begin if own else -1,
                           2 * k + 32, result)  # fmt: skip
        lost = overflow.nonzero().flatten()
    if len(lost):  # where many rows are equal
        queries, slack, data = queries.cpu(), slack.cpu(), data.cpu()
    for row in lost.tolist():
        at = slice(row, row + 1)
        one = _empty(slack, k, 1)
        with backend("auto"):
            _search(queries.part(at), slack[at], data, metric, False, begin + row if own else -1,
                    len(searched), one)  # fmt: skip
        for out, found in zip(result, one, strict=True):
            out[row] = found[0]
    return result


def _search_cuda(
    queries: _Side, slack: Tensor, data: _Side, metric: str, self_offset: int, result: KNNGraph
) -> Tensor:
    """Fill `result` through halves, then, for queries to which these say too little, floats.

    Returns which queries are still lost.
    """
    k = result.idx.shape[1]
    if 4 * k > _MAX_CUDA_CAPACITY:
        raise ValueError(f"k must be at most {_MAX_CUDA_CAPACITY // 4} on CUDA, got {k}")
    query_halves, data_halves, half_slack = _half_filter(queries.filter, data.filter, metric)
    overflow = _search(
        queries._replace(filter=query_halves), half_slack, data._replace(filter=data_halves),
        metric, False, self_offset, max(256, 1 << (4 * k - 1).bit_length()), result,
    )  # fmt: skip
    del query_halves, data_halves
    lost = overflow.nonzero().flatten()
    if not len(lost):
        return lost
    own = self_offset >= 0
    still_lost = []
    for rows in lost.split(_SECOND_TRY // _MAX_CUDA_CAPACITY):
        # No longer consecutive rows of the database: they may find themselves, as one too many.
        again = _empty(slack, k + own, len(rows))
        overflow = _search(queries.part(rows), slack[rows], data, metric, False, -1,
                           _MAX_CUDA_CAPACITY, again)  # fmt: skip
        found = rows[~overflow]
        idx, sim = again.idx[~overflow], again.sim[~overflow]
        if own:
            keep = idx != (self_offset + found).unsqueeze(1)
            keep[:, -1] &= ~keep.all(1)
            idx, sim = idx[keep].view(-1, k), sim[keep].view(-1, k)
        result.idx[found], result.sim[found] = idx, sim
        still_lost.append(rows[overflow])
    return torch.cat(still_lost)


def _search(
    queries: _Side,
    slack: Tensor,
    data: _Side,
    metric: str,
    symmetric: bool,
    self_offset: int,
    capacity: int,
    result: KNNGraph,
) -> Tensor:
    """Fill `result`; returns which queries it could not fill."""
    count = len(slack)

    def new(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=slack.device)

    overflow = new(count, dtype=torch.bool)
    launch(
        _SEARCH, *queries, *data, int(metric == "l2"), symmetric, self_offset, slack,
        new(count, capacity), new(count, capacity, dtype=torch.int32),
        new(count, dtype=torch.int32), new(count), result.idx, result.sim, overflow,
    )  # fmt: skip
    return overflow


class _Side(NamedTuple):
    """Queries or database."""

    filter: Tensor
    exact: Tensor
    scale: Tensor | None

    def part(self, rows: slice | Tensor) -> _Side:
        return _Side(*(None if t is None else t[rows] for t in self))  # type: ignore[arg-type]

    def cpu(self) -> _Side:
        return _Side(*(None if t is None else t.cpu() for t in self))  # type: ignore[arg-type]


def _sides(x: Tensor, searched: Tensor, metric: str) -> tuple[_Side, _Side]:
    filters, scales = _filter_rows(x, searched, metric)
    exact = [_exact_rows(x)]
    exact.append(exact[0] if searched is x else _exact_rows(searched))
    return (
        _Side(filters[0], exact[0], None if scales is None else scales[0]),
        _Side(filters[1], exact[1], None if scales is None else scales[1]),
    )


def _exact_rows(t: Tensor) -> Tensor:
    wide = torch.float64 if t.dtype is torch.float64 else torch.float32
    return _check.resolve_neg(t.detach()).to(wide).contiguous()


def _filter_rows(
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
                raise ValueError(f"{name} must have no zero row for 'cosine', got one in row {row}")
        scales = [1 / n for n in norms]
        if same:
            scales[1] = scales[0]
        rows = [_scaled(t, s) for t, s in zip(tensors, scales, strict=True)]
        return (rows[0], rows[0] if same else rows[1]), (scales[0], scales[1])
    if metric == "ip":
        rows = [
            _scaled(t, 1 / n.max().clamp(min=1e-300)) for t, n in zip(tensors, norms, strict=True)
        ]
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


def _half_filter(queries: Tensor, data: Tensor, metric: str) -> tuple[Tensor, Tensor, Tensor]:
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


def _slack(queries: Tensor, data: Tensor) -> Tensor:
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
