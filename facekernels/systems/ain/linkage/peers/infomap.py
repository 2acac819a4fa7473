"""Communities by the map equation."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from facekernels.systems.ain.linkage.peers.graph import (
    Labels,
    Values,
    check_graph,
    check_threshold,
    edge_list,
    in_order,
)


@dataclass(frozen=True)
class Infomap:
    """Communities in which a random walk along the links stays long.

    Args:
        min_sim: least cosine similarity of a link; links are weighted by it.
        seed: of the search, at least 1.
        trials: searches, of which the best is taken.

    Raises:
        ImportError: without the package infomap (``pip install 'facekernels[scale]'``).

    Source: Rosvall and Bergstrom, 2008, by the authors' implementation; two levels, undirected.
    """

    min_sim: float = 0.58
    seed: int = 1
    trials: int = 1

    def __post_init__(self) -> None:
        check_threshold(self.min_sim, "min_sim")
        if self.seed < 1 or self.trials < 1:
            raise ValueError(
                f"seed and trials must be at least 1, got {self.seed} and {self.trials}"
            )
        if find_spec("infomap") is None:  # known before the graph is made
            raise ImportError("Infomap needs: pip install 'facekernels[scale]'")

    def cluster(self, idx: Values, sim: Values) -> Labels:
        """``[N, k]`` neighbours and similarities -> ``[N]`` labels."""
        idx, sim = check_graph(idx, sim)
        from infomap import Infomap as Search

        edges, scores = edge_list(idx.cpu(), sim.cpu(), max(self.min_sim, 1e-6))
        labels = np.arange(len(idx))
        if len(edges) == 0:
            return labels
        search = Search(silent=True, two_level=True, seed=self.seed, num_trials=self.trials)
        search.add_links(np.column_stack((edges.numpy(), scores.numpy().astype(np.float64))))
        modules = search.run().modules()
        nodes = np.fromiter(modules.keys(), dtype=np.int64)
        labels[nodes] = len(idx) + np.fromiter(modules.values(), dtype=np.int64)
        return in_order(labels)
