"""Label propagation by majority of weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facekernels.systems.ain.linkage.peers.graph import (
    Labels,
    Values,
    check_graph,
    check_threshold,
    edge_list,
    in_order,
    symmetric_rows,
)


@dataclass(frozen=True)
class ChineseWhispers:
    """Every node takes the label with the largest sum of similarities among its neighbours.

    Nodes are visited one by one in a new random order per iteration, and see what those before
    them took. Of equal sums the smallest label wins.

    Args:
        threshold: least cosine similarity of a link.
        iterations: most of them; it ends when a round changes nothing.
        seed: of the orders.

    Source: Biemann, 2006.
    """

    threshold: float = 0.5
    iterations: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        check_threshold(self.threshold)
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")

    def cluster(self, idx: Values, sim: Values) -> Labels:
        """``[N, k]`` neighbours and similarities -> ``[N]`` labels."""
        idx, sim = check_graph(idx, sim)
        nodes = len(idx)
        edges, scores = edge_list(idx.cpu(), sim.cpu(), self.threshold)
        indptr, neighbors, weights = symmetric_rows(edges, scores, nodes)
        labels = np.arange(nodes)
        votes = np.zeros(nodes)
        generator = np.random.default_rng(self.seed)
        for _ in range(self.iterations):
            changed = False
            for node in generator.permutation(nodes):
                row = slice(indptr[node], indptr[node + 1])
                heard = labels[neighbors[row]]
                if len(heard) == 0:
                    continue
                np.add.at(votes, heard, weights[row])
                best = heard[votes[heard] == votes[heard].max()].min()
                votes[heard] = 0
                changed |= bool(best != labels[node])
                labels[node] = best
            if not changed:
                break
        return in_order(labels)
