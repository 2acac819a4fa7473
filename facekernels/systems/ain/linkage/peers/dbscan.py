"""DBSCAN whose neighbourhoods are those of the graph."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from facekernels.ops import connected_components
from facekernels.systems.ain.linkage.peers.graph import (
    Labels,
    Values,
    check_graph,
    check_threshold,
    edge_list,
    in_order,
)


@dataclass(frozen=True)
class NeighborDBSCAN:
    """Dense nodes and what they reach; a node that none reaches is a cluster of its own.

    Neighbours of a node are those it is linked to in either direction with at least `threshold`.
    A node with `min_neighbors` of them, itself included, is a core; linked cores share a cluster,
    and another node joins the most similar core linked to it (of equals the lowest).

    Args:
        threshold: least cosine similarity of a link.
        min_neighbors: at least 1.

    Source: Ester et al., 1996; on neighbour graphs as in the face-clustering benchmarks.
    """

    threshold: float = 0.5
    min_neighbors: int = 2

    def __post_init__(self) -> None:
        check_threshold(self.threshold)
        if self.min_neighbors < 1:
            raise ValueError(f"min_neighbors must be at least 1, got {self.min_neighbors}")

    def cluster(self, idx: Values, sim: Values) -> Labels:
        """``[N, k]`` neighbours and similarities -> ``[N]`` labels."""
        idx, sim = check_graph(idx, sim)
        nodes = len(idx)
        edges, scores = edge_list(idx.cpu(), sim.cpu(), self.threshold)
        core = torch.bincount(edges.flatten(), minlength=nodes) + 1 >= self.min_neighbors
        labels = connected_components(edges[core[edges].all(1)], nodes)
        # Border nodes: of the links to a core, the best one.
        both, values = torch.cat((edges, edges.flip(1))), torch.cat((scores, scores))
        border = ~core[both[:, 0]] & core[both[:, 1]]
        both, values = both[border], values[border]
        order = torch.argsort(both[:, 1])
        order = order[torch.argsort(values[order], descending=True, stable=True)]
        order = order[torch.argsort(both[order, 0], stable=True)]
        both = both[order]
        first = torch.ones(len(both), dtype=torch.bool)
        first[1:] = both[1:, 0] != both[:-1, 0]
        labels[both[first, 0]] = labels[both[first, 1]]
        return in_order(labels.numpy())
