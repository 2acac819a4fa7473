"""What the methods share: edges of a neighbour graph, and labels in one order."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facekernels.ops import pool_edges

Labels = NDArray[np.int64]

Values = Tensor | NDArray[Any]
"""A tensor or a NumPy array."""


def check_graph(idx: Values, sim: Values) -> tuple[Tensor, Tensor]:
    """``[N, k]`` int64 nodes, no row with its own, and as many finite similarities, as tensors."""
    idx, sim = as_tensor("idx", idx), as_tensor("sim", sim)
    if idx.ndim != 2 or idx.dtype is not torch.int64 or idx.shape[1] == 0:
        raise ValueError(
            f"idx must be [N, k] int64 with k >= 1, got {tuple(idx.shape)} {str(idx.dtype)[6:]}"
        )
    if sim.shape != idx.shape or not sim.is_floating_point():
        raise ValueError(
            f"sim must be {tuple(idx.shape)} floating point as idx, "
            f"got {tuple(sim.shape)} {str(sim.dtype)[6:]}"
        )
    if len(idx) and (int(idx.min()) < 0 or int(idx.max()) >= len(idx)):
        low, high = int(idx.min()), int(idx.max())
        raise ValueError(f"idx must hold nodes from 0 to {len(idx) - 1}, got {low} to {high}")
    itself = (idx == torch.arange(len(idx), device=idx.device).unsqueeze(1)).any(1)
    if bool(itself.any()):
        raise ValueError(
            f"idx must not hold the node itself, got node {int(itself.int().argmax())} in its own "
            "row: drop that column of idx and sim, as in idx[:, 1:] and sim[:, 1:] where it comes "
            "first"
        )
    if not bool(torch.isfinite(sim).all()):
        raise ValueError("sim must be finite, got NaN or infinity")
    return idx, sim


def check_features(features: Values, nodes: int, width: int | None = None) -> Tensor:
    """``[N, D]`` float32, with the D that the network was trained on if there is one."""
    x = as_tensor("features", features)
    wrong_width = x.ndim == 2 and width is not None and x.shape[1] != width
    if x.ndim != 2 or len(x) != nodes or x.dtype is not torch.float32 or wrong_width:
        wanted = f"[N, D] = ({nodes}, {'D' if width is None else width})"
        raise ValueError(
            f"features must be {wanted} float32, got {tuple(x.shape)} {str(x.dtype)[6:]}"
        )
    return x


def check_labels(labels: Values, nodes: int) -> Tensor:
    """``[N]`` integers."""
    labels = as_tensor("labels", labels)
    if labels.shape != (nodes,) or labels.is_floating_point():
        raise ValueError(
            f"labels must be [N] = ({nodes},) integers, "
            f"got {tuple(labels.shape)} {str(labels.dtype)[6:]}"
        )
    return labels


def as_tensor(name: str, values: Any) -> Tensor:
    """A tensor as it is, an array as a tensor."""
    if isinstance(values, np.ndarray):
        return torch.tensor(values)  # a copy: from_numpy refuses negative strides
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} must be a tensor or an array, got {type(values).__name__}")
    return values


def check_threshold(threshold: float, name: str = "threshold") -> None:
    """A cosine similarity."""
    if not -1 <= threshold <= 1:
        raise ValueError(f"{name} must be a similarity in [-1, 1], got {threshold}")


def edge_list(idx: Tensor, sim: Tensor, threshold: float = -torch.inf) -> tuple[Tensor, Tensor]:
    """Undirected edges ``[E, 2]`` of at least that similarity, once each, and the similarities."""
    own = torch.arange(len(idx), device=idx.device).repeat_interleave(idx.shape[1])
    edges, scores = torch.stack((own, idx.flatten()), 1), sim.flatten().float()
    kept = scores >= threshold
    pooled = pool_edges(edges[kept], scores[kept], "max")
    return pooled.edges, pooled.scores


def symmetric_rows(
    edges: Tensor, scores: Tensor, nodes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Both directions of undirected edges in compressed rows: indptr, neighbours, scores."""
    both = torch.cat((edges, edges.flip(1)))
    order = torch.argsort(both[:, 0] * nodes + both[:, 1])
    both, values = both[order], torch.cat((scores, scores))[order]
    indptr = torch.searchsorted(both[:, 0].contiguous(), torch.arange(nodes + 1))
    return indptr.numpy(), both[:, 1].contiguous().numpy(), values.numpy()


def in_order(labels: NDArray[np.int64]) -> Labels:
    """Numbers 0, 1, ... in the order of the clusters' smallest members."""
    if len(labels) == 0:
        return labels.astype(np.int64)
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    ordered: Labels = rank[inverse]
    return ordered
