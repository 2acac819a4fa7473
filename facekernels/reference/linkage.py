"""The linkage network as published: dense, padded, every layer on every node."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from facekernels.reference.subgraphs import pivot_subgraphs


def graph_convolution(x: Tensor, adjacency: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``relu([x ; A x] W + b)``."""
    return torch.relu(torch.cat((x, adjacency @ x), -1) @ weight + bias)


def linkage_scores(
    features: Tensor,
    knn: Tensor,
    pivots: Tensor,
    weights: Sequence[Tensor],
    *,
    k_at_hop: tuple[int, int] = (80, 10),
    active_connection: int = 10,
    eps: float = 1e-5,
) -> Tensor:
    """Plain PyTorch twin of `facekernels.ops.linkage_scores`, pivot by pivot."""
    mean, variance, *layers = (w.to(features.dtype) for w in weights)
    convolutions, classifier = layers[:8], layers[8:]
    scores = features.new_empty(len(pivots), k_at_hop[0])
    for p in range(len(pivots)):
        nodes, _, indptr, indices, one_hop, _ = pivot_subgraphs(
            knn, pivots[p : p + 1], k_at_hop, active_connection
        )
        degree = indptr.diff()
        adjacency = features.new_zeros(len(nodes), len(nodes))
        adjacency[torch.repeat_interleave(torch.arange(len(nodes)), degree), indices] = 1
        adjacency /= degree.clamp(min=1).unsqueeze(1)
        x = (features[nodes] - features[pivots[p]] - mean) / torch.sqrt(variance + eps)
        for i in range(0, 8, 2):
            x = graph_convolution(x, adjacency, convolutions[i], convolutions[i + 1])
        weight1, bias1, slope, weight2, bias2 = classifier
        hidden = F.prelu(F.linear(x[one_hop[0]], weight1, bias1), slope)
        logits = F.linear(hidden, weight2, bias2)
        scores[p] = torch.softmax(logits, 1)[:, 1]
    return scores
