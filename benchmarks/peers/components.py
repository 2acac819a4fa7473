"""Connected components."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from benchmarks.peers.common import Array


def scipy_components(nodes: int, threshold: float | None) -> Callable[[Tensor, Tensor], Array]:
    """SciPy's, with the selection and the matrix it needs."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    def components(edges: Tensor, scores: Tensor) -> Array:
        pairs = edges.numpy()
        if threshold is not None:
            pairs = pairs[scores.numpy() >= threshold]
        ones = np.ones(len(pairs), dtype=np.float32)
        graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(nodes, nodes))
        return connected_components(graph, directed=False)[1]

    return components
