"""Context subgraphs around pivots of a nearest-neighbour graph, as one ragged batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from facekernels import _check
from facekernels._op import Op, launch, use_reference
from facekernels.reference.subgraphs import pivot_subgraphs as _reference

_SIZES = Op(
    "subgraph_sizes(Tensor knn, Tensor pivots, int k1, int k2, int u, Tensor(a!) nodes, "
    "Tensor(b!) edges) -> ()"
)
_FILL = Op(
    "subgraph_fill(Tensor knn, Tensor pivots, int k1, int k2, int u, Tensor node_offsets, "
    "Tensor edge_offsets, Tensor(a!) nodes, Tensor(b!) indptr, Tensor(c!) indices, "
    "Tensor(d!) one_hop, Tensor(e!) unsorted) -> ()"
)
_MAX_CUDA_NODES = 4096


class DenseSubgraphs(NamedTuple):
    """The padded form of the published code; rows past a subgraph's nodes are 0."""

    features: Tensor
    """``[P, n, D]``: features minus those of the pivot; n is the largest number of nodes."""
    adjacency: Tensor
    """``[P, n, n]``: rows sum to 1, or to 0 where a node has no neighbour."""
    one_hop: Tensor
    """``[P, k1]`` int64 positions within the subgraph, in the order of the neighbours' ids."""
    mask: Tensor
    """``[P, n]`` bool: real nodes."""


class PivotSubgraphs(NamedTuple):
    """A batch of subgraphs as one graph in compressed rows, R rows in all."""

    nodes: Tensor
    """``[R]`` int64: the node of every row, ascending within a subgraph."""
    node_offsets: Tensor
    """``[P + 1]`` int64: the rows of subgraph p are ``node_offsets[p] .. node_offsets[p + 1]``."""
    indptr: Tensor
    """``[R + 1]`` int64: the edges of every row."""
    indices: Tensor
    """``[E]`` int64: the row that an edge leads to, ascending within a row."""
    one_hop: Tensor
    """``[P, k1]`` int64: rows of the pivot's neighbours, in the order of their ids."""
    pivots: Tensor
    """``[P]`` int64, as given."""

    def groups(self) -> Tensor:
        """``[R]`` int64: the subgraph of every row."""
        count = torch.arange(len(self.node_offsets) - 1, device=self.nodes.device)
        return torch.repeat_interleave(count, self.node_offsets.diff(), output_size=len(self.nodes))

    def dense(self, features: Tensor, size: int | None = None) -> DenseSubgraphs:
        """The padded form, for the published network or a comparison with it.

        Args:
            features: ``[N, D]``.
            size: nodes to pad to; by default those of the largest subgraph.

        Raises:
            ValueError: a subgraph has more than `size` nodes.
        """
        sizes = self.node_offsets.diff()
        largest = int(sizes.max()) if len(sizes) else 0
        if size is not None and size < largest:
            raise ValueError(f"size must be at least {largest}, the largest subgraph, got {size}")
        count, width = len(sizes), largest if size is None else size
        group = self.groups()
        position = torch.arange(len(self.nodes), device=group.device) - self.node_offsets[group]
        padded = features.new_zeros(count, width, features.shape[1])
        padded[group, position] = features[self.nodes] - features[self.pivots[group]]
        row = torch.repeat_interleave(
            torch.arange(len(self.nodes), device=group.device),
            self.indptr.diff(), output_size=len(self.indices),
        )  # fmt: skip
        adjacency = features.new_zeros(count, width, width)
        adjacency[group[row], position[row], position[self.indices]] = 1
        adjacency /= adjacency.sum(2, keepdim=True).clamp(min=1)
        mask = torch.arange(width, device=group.device) < sizes.unsqueeze(1)
        return DenseSubgraphs(
            padded, adjacency, self.one_hop - self.node_offsets[:-1].unsqueeze(1), mask
        )


def pivot_subgraphs(
    knn: Tensor, pivots: Tensor, k_at_hop: tuple[int, int] = (80, 10), active_connection: int = 10
) -> PivotSubgraphs:
    """The subgraph of every pivot: its neighbours, their neighbours, and links among them.

    Equivalent to, for each pivot p::

        hop = knn[p, :k1]
        nodes = sorted({p, *hop, *knn[hop, :k2].flatten()})
        links = {a - b and b - a for a in nodes for b in knn[a, :active_connection] if b in nodes}

    but ragged: without padding and without a dense adjacency matrix.

    Args:
        knn: ``[N, k]`` int64, best first, e.g. ``knn_graph(x, k).idx``. A row holds k different
            nodes, not its own; that is taken on trust.
        pivots: ``[P]`` int64 in [0, N); may repeat.
        k_at_hop: (k1, k2), each from 1 to k.
        active_connection: links of each node, from k2 to k: with fewer, a node could have none.

    On CUDA a subgraph may have 4096 nodes, so ``k1 * (k2 + 1) < 4096``. The sizes of the result
    depend on the values, so the stream is waited for, and `torch.compile` breaks the graph here.

    Raises:
        TypeError: not int64 tensors, settings that are no integers.
        ValueError: shapes, devices, ranges, or nodes that are not in [0, N).

    Source: Wang et al., Linkage Based Face Clustering via Graph Convolution Network, CVPR 2019,
    section 3.2. The published code keeps nodes in the order of a Python set; here they ascend.
    """
    k1, k2, u = _check_arguments(knn, pivots, k_at_hop, active_connection)
    if use_reference():
        return PivotSubgraphs(*_reference(knn, pivots, (k1, k2), u))
    knn, pivots = knn.contiguous(), pivots.contiguous()

    def new(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.int64, device=knn.device)

    count = len(pivots)
    sizes, edges = new(count), new(count)
    launch(_SIZES, knn, pivots, k1, k2, u, sizes, edges)
    node_offsets, edge_offsets = _offsets(sizes), _offsets(edges)
    rows, links = int(node_offsets[-1]), int(edge_offsets[-1])
    result = PivotSubgraphs(
        new(rows), node_offsets, new(rows + 1), new(links), new(count, k1), pivots
    )
    if count == 0:
        result.indptr.zero_()
    unsorted = new(links) if knn.is_cuda else result.indices
    launch(
        _FILL, knn, pivots, k1, k2, u, node_offsets, edge_offsets, result.nodes, result.indptr,
        result.indices, result.one_hop, torch.empty_like(unsorted),
    )  # fmt: skip
    return result


def _offsets(sizes: Tensor) -> Tensor:
    return torch.cat((sizes.new_zeros(1), sizes.cumsum(0)))


def _check_arguments(
    knn: Tensor, pivots: Tensor, k_at_hop: tuple[int, int], active_connection: int
) -> tuple[int, int, int]:
    for name, t, ndim, meaning in (("knn", knn, 2, "[N, k]"), ("pivots", pivots, 1, "[P]")):
        _check.tensor(name, t)
        if t.dtype is not torch.int64:
            raise TypeError(f"{name} must be int64, got {str(t.dtype)[6:]}")
        if t.ndim != ndim:
            raise ValueError(f"{name} must be {meaning}, got shape {_check.shape_of(t)}")
    _check.same_device("pivots", pivots, "knn", knn)
    k1, k2, active_connection = check_hops(knn, k_at_hop, active_connection)
    nodes = len(knn)
    _check_nodes("pivots", pivots, nodes)
    if len(pivots):
        # The rows that are looked at, not all of them.
        hop = knn[pivots, :k1]
        _check_nodes("knn", hop, nodes)
        _check_nodes("knn", knn[hop.flatten(), :k2], nodes)
    return k1, k2, active_connection


def check_hops(
    knn: Tensor, k_at_hop: tuple[int, int], active_connection: int
) -> tuple[int, int, int]:
    """The numbers of `pivot_subgraphs`, if they fit a graph ``[N, k]``."""
    k = knn.shape[1]
    if not isinstance(k_at_hop, (tuple, list)):
        raise TypeError(f"k_at_hop must be a tuple (k1, k2), got {type(k_at_hop).__name__}")
    if len(k_at_hop) != 2:
        raise ValueError(f"k_at_hop must be two numbers, got {k_at_hop}")
    k1, k2 = (_check.integer(f"k_at_hop[{i}]", k_at_hop[i]) for i in range(2))
    active_connection = _check.integer("active_connection", active_connection)
    if not (1 <= k1 <= k and 1 <= k2 <= k):
        raise ValueError(f"k_at_hop must be between 1 and k = {k}, got {k_at_hop}")
    if not k2 <= active_connection <= k:
        raise ValueError(
            f"active_connection must be between k_at_hop[1] = {k2} and k = {k}, "
            f"got {active_connection}"
        )
    if knn.is_cuda and k1 * (k2 + 1) + 1 > _MAX_CUDA_NODES:
        raise ValueError(
            f"k_at_hop must give at most {_MAX_CUDA_NODES} nodes on CUDA, got {k_at_hop}"
        )
    return k1, k2, active_connection


def _check_nodes(name: str, t: Tensor, nodes: int) -> None:
    if t.numel() == 0:
        return
    low, high = (int(v) for v in torch.aminmax(t))
    if low < 0 or high >= nodes:
        raise ValueError(
            f"{name} must hold nodes from 0 to {nodes - 1}, got {low if low < 0 else high}"
        )
