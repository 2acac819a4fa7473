"""The neighbour graph by several processes, each with its share of the rows."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor

from facekernels.ops import KNNGraph, knn_graph


def sharded_knn_graph(
    x: Tensor, k: int, *, metric: str = "cosine", group: dist.ProcessGroup | None = None
) -> KNNGraph:
    """`ops.knn_graph` of the rows of x, which all processes hold; each gets the whole result.

    Every process searches for a contiguous share of the rows, and the shares are gathered. The
    result is that of one process. Without a process group it is `ops.knn_graph`.

    Args:
        x: ``[N, D]``, the same on every process, on its own device.
        k: neighbours.
        metric: see `ops.knn_graph`.
        group: the default group if None.

    Raises:
        ValueError: this process is not in the group, or what `ops.knn_graph` refuses.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return knn_graph(x, k, metric=metric)
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    if rank < 0:
        raise ValueError("group must contain this process")
    bounds = [len(x) * r // size for r in range(size + 1)]
    own = knn_graph(x, k, metric=metric, rows=(bounds[rank], bounds[rank + 1]))
    return KNNGraph(_gathered(own.idx, bounds, group), _gathered(own.sim, bounds, group))


def _gathered(own: Tensor, bounds: list[int], group: dist.ProcessGroup | None) -> Tensor:
    """Shares differ by one row: they travel with the length of the longest."""
    sizes = [b - a for a, b in pairwise(bounds)]
    padded = own.new_zeros(max(sizes), *own.shape[1:])
    padded[: len(own)] = own
    shares = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(shares, padded, group=group)
    return torch.cat([share[:size] for share, size in zip(shares, sizes, strict=True)])
