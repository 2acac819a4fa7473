"""Exact nearest neighbours: the graph that clustering starts from, without an N x N matrix."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from facekernels import _check
from facekernels._op import Op, backend, current_backend, launch, use_reference
from facekernels.ops.knn_approximate import faiss_search
from facekernels.ops.knn_filter import Side, filter_rows, half_filter, sides, slack_of
from facekernels.reference.knn import knn_graph as _reference

_SEARCH = Op(
    "knn_search(Tensor query_filter, Tensor query, Tensor? query_scale, Tensor filter, "
    "Tensor database, Tensor? scale, int metric, bool symmetric, int self_offset, Tensor slack, "
    "Tensor(a!) candidate_score, Tensor(b!) candidate_index, Tensor(c!) candidate_count, "
    "Tensor(d!) threshold, Tensor(e!) index, Tensor(f!) score, Tensor(g!) overflow) -> ()"
)

_METRICS = ("cosine", "ip", "l2")
_METHODS = ("exact", "faiss-ivf", "hnsw")
_MAX_CUDA_CAPACITY = 2048
_CANDIDATES = 1 << 25  # that a further search holds at once


class KNNGraph(NamedTuple):
    """The neighbours of every row, best first."""

    idx: Tensor
    """``[N, k]`` int64, rows of the database."""
    sim: Tensor
    """``[N, k]`` float32: cosine, inner product, or minus the squared Euclidean distance; infinite
    where that is beyond float32."""


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
        filter_rows(x, searched, metric)  # for its errors
        return KNNGraph(
            *_reference(
                x, k, metric=metric, database=database, exclude_self=exclude_self, rows=rows
            )
        )
    with torch.no_grad():
        if method != "exact":
            filter_rows(x, searched, metric)
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
    if rows is None:
        return
    if not (isinstance(rows, (tuple, list)) and all(type(r) is int for r in rows)):
        raise TypeError(f"rows must be a pair of ints, got {rows!r}")
    if not (len(rows) == 2 and 0 <= rows[0] <= rows[1] <= len(x)):
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
    """Search; then again with more room for the queries that had too many near ties."""
    queries, data = sides(x, searched, metric)
    queries = queries.part(slice(begin, end))
    slack = slack_of(queries.filter, data.filter)
    result = _empty(x, k, end - begin)
    self_offset = begin if own else -1
    if x.is_cuda or current_backend() == "emulated":
        if 4 * k > _MAX_CUDA_CAPACITY:
            raise ValueError(f"k must be at most {_MAX_CUDA_CAPACITY // 4} on CUDA, got {k}")
        query_halves, data_halves, half_slack = half_filter(queries.filter, data.filter, metric)
        overflow = _search(
            queries._replace(filter=query_halves), half_slack, data._replace(filter=data_halves),
            metric, False, self_offset, max(256, 1 << (4 * k - 1).bit_length()), result,
        )  # fmt: skip
        del query_halves, data_halves
        more = _MAX_CUDA_CAPACITY
    else:
        symmetric = searched is x and (begin, end) == (0, len(x))
        overflow = _search(queries, slack, data, metric, symmetric, self_offset, 2 * k + 32, result)
        more = min(16 * k + 1024, len(searched))
    lost = overflow.nonzero().flatten()
    if len(lost):
        lost = _search_again(queries, slack, data, metric, self_offset, more, lost, result)
    if len(lost):  # room for all rows
        with backend("auto"):
            _search_again(
                queries.cpu(), slack.cpu(), data.cpu(), metric, self_offset, len(searched),
                lost.cpu(), result,
            )  # fmt: skip
    return result


def _search_again(
    queries: Side,
    slack: Tensor,
    data: Side,
    metric: str,
    self_offset: int,
    capacity: int,
    chosen: Tensor,
    result: KNNGraph,
) -> Tensor:
    """Fill `result` for the chosen queries; returns which of them are still lost."""
    k, own = result.idx.shape[1], self_offset >= 0
    lost = []
    for rows in chosen.split(max(1, _CANDIDATES // capacity)):
        # No longer consecutive rows of the database: they may find themselves, as one too many.
        again = _empty(slack, k + own, len(rows))
        overflow = _search(
            queries.part(rows), slack[rows], data, metric, False, -1, capacity, again
        )
        found = rows[~overflow]
        idx, sim = again.idx[~overflow], again.sim[~overflow]
        if own:
            keep = idx != (self_offset + found).unsqueeze(1)
            keep[:, -1] &= ~keep.all(1)
            idx, sim = idx[keep].view(-1, k), sim[keep].view(-1, k)
        at = found.to(result.idx.device)
        result.idx[at], result.sim[at] = idx.to(result.idx), sim.to(result.sim)
        lost.append(rows[overflow])
    return torch.cat(lost)


def _search(
    queries: Side,
    slack: Tensor,
    data: Side,
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
