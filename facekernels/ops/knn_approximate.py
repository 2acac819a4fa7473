"""Approximate nearest neighbours by faiss, with the conventions of `knn_graph`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def faiss_search(
    queries: Tensor,
    k: int,
    data: Tensor,
    metric: str,
    self_offset: int | None,
    method: str,
    nlist: int | None,
    nprobe: int,
    hnsw_m: int,
    ef: int | None,
) -> tuple[Tensor, Tensor]:
    """Indices and similarities as in `knn_graph`; `self_offset` is the first query's own row.

    Raises:
        ImportError: faiss is not installed.
        ValueError: settings out of range, or a query for which fewer than k rows were found.
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            f"method={method!r} needs faiss: pip install 'facekernels[scale]'"
        ) from error
    rows = _rows(data, metric)
    index = _index(
        faiss, rows, metric, method, nlist, nprobe, hnsw_m, max(64, 2 * k) if ef is None else ef
    )
    wanted = k if self_offset is None else k + 1
    values, found = index.search(_rows(queries, metric), wanted)
    idx, sim = torch.from_numpy(found), torch.from_numpy(values)
    if metric == "l2":
        sim = -sim
    if self_offset is not None:
        own = torch.arange(self_offset, self_offset + len(idx)).unsqueeze(1)
        kept = idx != own
        kept[kept.all(1), -1] = False  # not found, so the farthest goes
        idx, sim = idx[kept].view(-1, k), sim[kept].view(-1, k)
    missing = (idx < 0).any(1)
    if missing.any():
        row = int(missing.nonzero()[0]) + (self_offset or 0)
        knob = "nprobe" if method == "faiss-ivf" else "ef"
        raise ValueError(
            f"method={method!r} found fewer than k = {k} rows for row {row}; raise {knob}"
        )
    return idx.to(queries.device), sim.to(queries.device)


def _index(
    faiss: Any,
    rows: Any,
    metric: str,
    method: str,
    nlist: int | None,
    nprobe: int,
    hnsw_m: int,
    ef: int,
) -> Any:
    count, dim = rows.shape
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    for name, value, lowest in (("nprobe", nprobe, 1), ("hnsw_m", hnsw_m, 2), ("ef", ef, 1)):
        if value < lowest:
            raise ValueError(f"{name} must be at least {lowest}, got {value}")
    if method == "hnsw":
        index = faiss.IndexHNSWFlat(dim, hnsw_m, kind)
        index.hnsw.efConstruction = ef
        index.hnsw.efSearch = ef
    else:
        cells = min(count, round(4 * count**0.5)) if nlist is None else nlist
        if not 1 <= cells <= count:
            raise ValueError(
                f"nlist must be between 1 and {count}, the number of rows, got {cells}"
            )
        coarse = faiss.IndexFlatL2(dim) if metric == "l2" else faiss.IndexFlatIP(dim)
        index = faiss.IndexIVFFlat(coarse, dim, cells, kind)
        index.cp.min_points_per_centroid = 1  # no warning on stderr for small data
        index.nprobe = nprobe
        index.train(rows)
    index.add(rows)
    return index


def _rows(t: Tensor, metric: str) -> Any:
    host = t.detach().to("cpu", torch.float64 if metric == "cosine" else torch.float32)
    if metric == "cosine":
        host = (host / torch.linalg.vector_norm(host, dim=1, keepdim=True)).float()
    return host.contiguous().numpy()
