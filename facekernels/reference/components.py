"""Connected components by spreading the smallest label."""

from __future__ import annotations

import torch
from torch import Tensor


def component_roots(edges: Tensor, num_nodes: int) -> Tensor:
    """The smallest member of every node's component, ``[num_nodes]``."""
    roots = torch.arange(num_nodes, device=edges.device)
    while True:
        smaller = torch.minimum(roots[edges[:, 0]], roots[edges[:, 1]])
        spread = roots.clone()
        for side in (0, 1):
            spread.scatter_reduce_(0, edges[:, side], smaller, "amin")
        spread = torch.minimum(spread, spread[spread])  # pointer jumping
        if torch.equal(spread, roots):
            return roots
        roots = spread
