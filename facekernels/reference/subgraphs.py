"""Context subgraphs, pivot by pivot in Python sets."""

from __future__ import annotations

import torch
from torch import Tensor


def pivot_subgraphs(
    knn: Tensor, pivots: Tensor, k_at_hop: tuple[int, int], active_connection: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Python twin of `facekernels.ops.pivot_subgraphs`."""
    k1, k2 = k_at_hop
    rows = knn.tolist()
    nodes: list[int] = []
    node_offsets, indptr, indices = [0], [0], []
    one_hop: list[list[int]] = []
    for pivot in pivots.tolist():
        first = len(nodes)
        hop = rows[pivot][:k1]
        inside = sorted({pivot, *hop, *(n for h in hop for n in rows[h][:k2])})
        row_of = {node: first + i for i, node in enumerate(inside)}
        edges: dict[int, set[int]] = {node: set() for node in inside}
        for a in inside:
            for b in rows[a][:active_connection]:
                if b in edges and b != a:
                    edges[a].add(b)
                    edges[b].add(a)
        for node in inside:
            indices += [row_of[b] for b in sorted(edges[node])]
            indptr.append(len(indices))
        nodes += inside
        node_offsets.append(len(nodes))
        one_hop.append([row_of[h] for h in sorted(hop)])

    def tensor(values: list[int] | list[list[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=knn.device)

    return (
        tensor(nodes), tensor(node_offsets), tensor(indptr), tensor(indices),
        tensor(one_hop).view(len(pivots), k1), pivots,
    )  # fmt: skip
