"""Nearest neighbours by brute force in float64."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_CHUNK = 1 << 24  # scores held at once


def knn_graph(
    x: Tensor,
    k: int,
    *,
    metric: str = "cosine",
    database: Tensor | None = None,
    exclude_self: bool = True,
    rows: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Plain PyTorch twin of `facekernels.ops.knn_graph`, exact methods only."""
    begin, end = rows if rows is not None else (0, len(x))
    data = (x if database is None else database).double()
    queries = x[begin:end].double()
    if metric == "cosine":
        data, queries = F.normalize(data, dim=1, eps=0), F.normalize(queries, dim=1, eps=0)
    indices, scores = [], []
    step = max(1, _CHUNK // max(len(data), 1))
    for first in range(0, len(queries), step):
        part = queries[first : first + step]
        if metric == "l2":
            distance = torch.cdist(part, data, compute_mode="donot_use_mm_for_euclid_dist")
            similarity = -distance.square()
        else:
            similarity = part @ data.T
        if exclude_self and database is None:
            own = torch.arange(first, first + len(part), device=x.device)
            similarity[own - first, own + begin] = -torch.inf
        order = similarity.sort(dim=1, descending=True, stable=True)
        indices.append(order.indices[:, :k])
        scores.append(order.values[:, :k].float())
    if not indices:
        empty = torch.empty(0, k, device=x.device)
        return empty.long(), empty
    return torch.cat(indices), torch.cat(scores)
