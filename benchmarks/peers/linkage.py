"""Neighbour means, subgraphs around pivots, and the linkage network on them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.peers.common import Array


def csr_mean(x: Tensor, indptr: Tensor, indices: Tensor) -> Tensor:
    """A sparse matrix with rows that sum to 1, made each time, times x."""
    degree = indptr.diff()
    weights = torch.repeat_interleave(1 / degree.to(x.dtype), degree)
    shape = (len(degree), len(x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the layout is in beta
        graph = torch.sparse_csr_tensor(indptr, indices, weights, shape, check_invariants=False)
    return graph @ x


def gather_mean(k: int, x: Tensor, indptr: Tensor, indices: Tensor) -> Tensor:
    """Where every row has k neighbours: a gather and a mean."""
    return x[indices].view(-1, k, x.shape[1]).mean(1)


def scatter_mean(x: Tensor, indptr: Tensor, indices: Tensor) -> Tensor:
    """As graph libraries do: a message per edge, added up at its row."""
    degree = indptr.diff()
    rows = torch.repeat_interleave(torch.arange(len(degree), device=x.device), degree)
    total = x.new_zeros(len(degree), x.shape[1]).index_add(0, rows, x[indices])
    return total / degree.unsqueeze(1)


def linkage_weights(d: int, device: torch.device) -> Any:
    """A linkage network of the published size with random weights."""
    from facekernels.ops import LinkageWeights

    shapes: list[tuple[int, ...]] = [(d,), (d,)]
    for inputs, outputs in ((d, 512), (512, 512), (512, 256), (256, 256)):
        shapes += [(2 * inputs, outputs), (outputs,)]
    shapes += [(256, 256), (256,), (256,), (2, 256), (2,)]
    weights = [torch.randn(s, device=device) * (s[0] ** -0.5) for s in shapes]
    weights[1] = weights[1].square() + 0.1
    return LinkageWeights(*weights)


def _dense_scores(batch: Any, weights: Any) -> Tensor:
    x = (batch.features - weights.mean) / torch.sqrt(weights.variance + 1e-5)
    for i in range(1, 5):
        w, b = getattr(weights, f"conv{i}_weight"), getattr(weights, f"conv{i}_bias")
        x = torch.relu(torch.cat((x, batch.adjacency @ x), -1) @ w + b)
    chosen = batch.one_hop.unsqueeze(-1).expand(-1, -1, x.shape[-1])
    hidden = F.linear(x.gather(1, chosen), weights.hidden_weight, weights.hidden_bias)
    hidden = F.prelu(hidden.transpose(1, 2), weights.slope).transpose(1, 2)
    return torch.softmax(F.linear(hidden, weights.output_weight, weights.output_bias), -1)[..., 1]


def dense_linkage(
    x: Tensor, knn: Tensor, pivots: Tensor, weights: Any, hops: tuple[int, int], links: int
) -> Tensor:
    """Our subgraphs, padded to the largest of a batch of 16, through the dense network."""
    from facekernels.ops import pivot_subgraphs

    parts = []
    for part in pivots.split(16):
        batch = pivot_subgraphs(knn, part, hops, links).dense(x)
        parts.append(_dense_scores(batch, weights))
    return torch.cat(parts)


def published_subgraphs(
    knn: Tensor, pivots: Tensor, hops: tuple[int, int], links: int
) -> list[tuple[Array, Array, Array]]:
    """Nodes, dense adjacency and one-hop positions of each pivot, in the published way.

    Membership in the subgraph is looked up in an array, neighbour by neighbour.
    """
    graph = knn.numpy()
    batch = []
    for pivot in pivots.tolist():
        hop = set(graph[pivot, : hops[0]].tolist())
        inside = hop | {pivot}
        for h in hop:
            inside |= set(graph[h, : hops[1]].tolist())
        nodes = np.array(sorted(inside))
        position = {node: i for i, node in enumerate(nodes.tolist())}
        adjacency = np.zeros((len(nodes), len(nodes)), dtype=np.float32)
        for node in nodes.tolist():
            for neighbor in graph[node, :links]:
                if neighbor in nodes:
                    a, b = position[node], position[int(neighbor)]
                    adjacency[a, b] = adjacency[b, a] = 1
        adjacency /= adjacency.sum(1, keepdims=True)
        batch.append((nodes, adjacency, np.array([position[h] for h in sorted(hop)])))
    return batch


def published_linkage(
    x: Tensor, knn: Tensor, pivots: Tensor, weights: Any, hops: tuple[int, int], links: int
) -> Tensor:
    """Subgraphs in Python, padded to the largest possible, batches of 16 in the dense network."""
    from facekernels.ops import DenseSubgraphs

    size = hops[0] * (hops[1] + 1) + 1
    parts = []
    for part in pivots.split(16):
        features = x.new_zeros(len(part), size, x.shape[1])
        adjacency = x.new_zeros(len(part), size, size)
        one_hop = []
        for i, (nodes, links_of, hop) in enumerate(published_subgraphs(knn, part, hops, links)):
            n = len(nodes)
            features[i, :n] = x[nodes] - x[part[i]]
            adjacency[i, :n, :n] = torch.from_numpy(links_of)
            one_hop.append(hop)
        chosen = torch.from_numpy(np.stack(one_hop))
        batch = DenseSubgraphs(features, adjacency, chosen, chosen)
        parts.append(_dense_scores(batch, weights))
    return torch.cat(parts)
