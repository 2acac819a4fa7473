"""Connected components of the similar pairs."""

from __future__ import annotations

from dataclasses import dataclass

from facekernels.ops import threshold_clusters
from facekernels.systems.ain.linkage.peers.graph import (
    Labels,
    Values,
    check_graph,
    check_threshold,
    edge_list,
)


@dataclass(frozen=True)
class ThresholdComponents:
    """Single linkage cut at one similarity: what every other method has to beat.

    Args:
        threshold: least cosine similarity of a link.
    """

    threshold: float = 0.5

    def __post_init__(self) -> None:
        check_threshold(self.threshold)

    def cluster(self, idx: Values, sim: Values) -> Labels:
        """``[N, k]`` neighbours and similarities -> ``[N]`` labels."""
        idx, sim = check_graph(idx, sim)
        edges, scores = edge_list(idx.cpu(), sim.cpu())
        return threshold_clusters(edges, scores, self.threshold, num_nodes=len(idx)).numpy()
