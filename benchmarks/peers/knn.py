"""Nearest neighbours by inner product, the row itself left out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def torch_knn(x: Tensor, k: int, chunk: int = 1024) -> tuple[Tensor, Tensor]:
    """Blocks of the product, topk of each; the row itself is masked. [N, k] each."""
    values = torch.empty(len(x), k, dtype=x.dtype, device=x.device)
    indices = torch.empty(len(x), k, dtype=torch.int64, device=x.device)
    for first in range(0, len(x), chunk):
        part = x[first : first + chunk]
        scores = part @ x.T
        scores[:, first : first + len(part)].fill_diagonal_(-torch.inf)
        best = scores.topk(k)
        values[first : first + chunk], indices[first : first + chunk] = best
    return values, indices


def faiss_knn(k: int) -> Callable[[Tensor], Tensor]:
    """Faiss' exact inner-product search; the first column, the row itself, is dropped."""
    import faiss

    def search(x: Tensor) -> Tensor:
        faiss.omp_set_num_threads(torch.get_num_threads())
        rows = x.float().numpy()
        index = faiss.IndexFlatIP(rows.shape[1])
        index.add(rows)
        return torch.from_numpy(index.search(rows, k + 1)[0][:, 1:])

    return search


def hnsw_knn(k: int) -> Callable[[Tensor], Tensor]:
    """hnswlib, building included, M 16 and ef 2 k: approximate."""
    import hnswlib

    def search(x: Tensor) -> Tensor:
        index = hnswlib.Index("ip", x.shape[1])
        index.init_index(len(x), M=16, ef_construction=2 * k, random_seed=1)
        index.set_num_threads(torch.get_num_threads())
        index.add_items(x.float().numpy())
        index.set_ef(2 * k)
        return torch.from_numpy(1 - index.knn_query(x.float().numpy(), k + 1)[1][:, 1:])

    return search
