"""From scored links to clusters: pooling, connected components, rising thresholds."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from facekernels import _check
from facekernels._op import Op, launch, use_reference
from facekernels.reference.components import component_roots as _reference

_COMPONENTS = Op(
    "connected_components(Tensor edges, Tensor? scores, float threshold, Tensor(a!) parent, "
    "Tensor(b!) roots) -> ()"
)
_POOLINGS = ("mean", "max", "last")


class PooledEdges(NamedTuple):
    """Every undirected pair once, ascending."""

    edges: Tensor
    """``[P, 2]`` int64, the smaller node first."""
    scores: Tensor
    """``[P]``, dtype of the scores given."""


def connected_components(
    edges: Tensor,
    num_nodes: int,
    *,
    scores: Tensor | None = None,
    threshold: float | None = None,
) -> Tensor:
    """The component of every node of an undirected graph.

    Equivalent to::

        kept = edges if threshold is None else edges[scores >= threshold]
        graph = scipy.sparse.coo_array((ones, kept.T), (num_nodes, num_nodes))
        labels = scipy.sparse.csgraph.connected_components(graph, directed=False)[1]

    but always with components numbered in the order of their smallest member, whatever the order
    of the edges or the threads, and without copying the kept edges.

    Args:
        edges: ``[E, 2]`` int64, nodes in [0, num_nodes); each pair in either direction or both.
        num_nodes: at least 0, below 2**31. A node without edges is a component of its own.
        scores: ``[E]`` float32 (float64 is rounded to it), with a threshold.
        threshold: edges with a lower score, or NaN, do not count.

    Returns:
        ``[num_nodes]`` int64 labels 0, 1, ...

    Raises:
        TypeError: dtypes, a threshold that is no number.
        ValueError: shapes, devices, nodes out of range, scores without a threshold, a threshold of
            NaN.
    """
    _check_edges(edges, num_nodes)
    if (scores is None) != (threshold is None):
        raise ValueError("scores and threshold go together: give both or neither")
    if scores is not None:
        _check_scores(edges, scores)
        scores, threshold = scores.float(), _check.number("threshold", threshold)
    return relabeled(_roots(edges, num_nodes, scores, threshold))


def threshold_clusters(
    edges: Tensor, scores: Tensor, threshold: float, *, num_nodes: int
) -> Tensor:
    """Components of the edges whose score reaches the threshold.

    Equivalent to ``connected_components(edges, num_nodes, scores=scores, threshold=threshold)``;
    arguments, result and errors are those of `connected_components`.
    """
    return connected_components(edges, num_nodes, scores=scores, threshold=threshold)


def pool_edges(edges: Tensor, scores: Tensor, mode: str = "mean") -> PooledEdges:
    """One score for each undirected pair.

    Equivalent to::

        pair, which = torch.unique(edges.sort(1).values, dim=0, return_inverse=True)
        score = torch.zeros(len(pair)).index_reduce(0, which, scores, "mean")

    Args:
        edges: ``[E, 2]`` int64, not negative; a pair may come in both directions and repeatedly.
        scores: ``[E]`` float32 or float64.
        mode: ``"mean"``, ``"max"``, or ``"last"`` (the one that comes last in the list).

    Raises:
        TypeError: dtypes.
        ValueError: shapes, devices, negative nodes, another mode.

    Source: the published pipelines average; where a pair occurs more than twice, one of them
    instead halves the sum at each occurrence, which depends on the order and is not offered.
    """
    _check.one_of("mode", mode, _POOLINGS)
    _check_pairs(edges)
    _check_scores(edges, scores)
    if len(edges) == 0:
        return PooledEdges(edges.new_empty(0, 2), scores.new_empty(0))
    low, high = edges.amin(1), edges.amax(1)
    if int(low.min()) < 0:
        raise ValueError(f"edges must hold nodes of at least 0, got {int(low.min())}")
    span = int(high.max()) + 1
    if span > math.isqrt(2**63 - 1):
        raise ValueError(f"edges must hold nodes below {math.isqrt(2**63 - 1)}, got {span - 1}")
    order = torch.sort(low * span + high, stable=True)
    pair, count = torch.unique_consecutive(order.values, return_counts=True)
    values = scores[order.indices]
    if mode == "last":
        pooled = values[count.cumsum(0) - 1]
    else:
        pooled = torch.segment_reduce(values, mode, lengths=count)
    return PooledEdges(
        torch.stack((torch.div(pair, span, rounding_mode="floor"), pair % span), 1), pooled
    )


def link_clusters(
    edges: Tensor, scores: Tensor, *, max_size: int = 300, step: float = 0.6, num_nodes: int
) -> Tensor:
    """Clusters of bounded size, by components under a rising threshold.

    Round 0 takes every edge. Components of at most `max_size` nodes are clusters; the nodes of
    larger ones go on with a threshold raised from t to ``t + (1 - t) * step``, beginning with the
    lowest score. A component that no threshold below 1 can split is a cluster however large it is,
    with a warning: saturated scores neither hang nor merge what is not connected.

    Args:
        edges: ``[E, 2]`` int64, nodes in [0, num_nodes). Pool repeated pairs first (`pool_edges`):
            otherwise the highest score of a pair decides.
        scores: ``[E]`` float32 or float64 up to 1, such as link probabilities.
        max_size: at least 1. It should be near the size of the largest true cluster.
        step: in (0, 1).
        num_nodes: nodes without edges become clusters of their own.

    Returns:
        ``[num_nodes]`` int64 labels, in the order of the clusters' smallest members.

    Raises:
        TypeError: dtypes, a step that is no number.
        ValueError: shapes, devices, nodes or settings out of range, scores above 1 or not finite.

    Source: pseudo label propagation of Zhan et al., Consensus-Driven Propagation, ECCV 2018, as
    used by Wang et al., CVPR 2019.
    """
    _check_edges(edges, num_nodes)
    _check_scores(edges, scores)
    if isinstance(max_size, bool) or not isinstance(max_size, int) or max_size < 1:
        raise ValueError(f"max_size must be an integer of at least 1, got {max_size!r}")
    step = _check.number("step", step)
    if not 0 < step < 1:
        raise ValueError(f"step must be in (0, 1), got {step}")
    if len(edges) == 0:
        return torch.arange(num_nodes, device=edges.device)
    wrong = scores[~(scores.isfinite() & (scores <= 1))]
    if len(wrong):
        raise ValueError(f"scores must be finite and at most 1, got {float(wrong[0])}")
    scores = scores.double()  # as the thresholds: one that drops no edge must be seen to do so
    own = torch.arange(num_nodes, device=edges.device)
    roots, active = own, torch.ones_like(own, dtype=torch.bool)
    threshold = float(scores.min())
    while True:
        found = _roots(edges, num_nodes, None, None)
        final = active & (torch.bincount(found, minlength=num_nodes)[found] <= max_size)
        roots = torch.where(final, found, roots)
        active = active & ~final
        kept = active[edges[:, 0]]
        edges, scores = edges[kept], scores[kept]
        if len(edges) == 0:
            return relabeled(roots)
        lowest = float(scores.min())
        while threshold <= lowest:  # a threshold that drops no edge changes nothing
            raised = threshold + (1 - threshold) * step
            if lowest >= 1 or raised == threshold:
                count = len(torch.unique(found[active]))
                warnings.warn(
                    f"{count} clusters have more than max_size = {max_size} nodes: the scores "
                    "within them are too near to 1 for a threshold to split them",
                    stacklevel=2,
                )
                return relabeled(torch.where(active, found, roots))
            threshold = raised
        kept = scores >= threshold
        edges, scores = edges[kept], scores[kept]


class SoftLabels(NamedTuple):
    """A sparse matrix of nodes by clusters in compressed rows."""

    indptr: Tensor
    """``[N + 1]`` int64."""
    labels: Tensor
    """``[M]`` int64, ascending within a node."""
    weights: Tensor
    """``[M]`` float32; those of a node sum to 1."""


def label_diffusion(
    edges: Tensor, labels: Tensor, *, max_depth: int = 5, decay: float = 0.6
) -> SoftLabels:
    """How strongly each node belongs to the clusters around it.

    A node at h links from node i gives its cluster the weight ``decay**h`` (1 for i itself), up to
    `max_depth` links; the weights of i are then divided by their sum.

    Equivalent to ``softened[i, c] = sum(decay ** hops[i, j] for j with labels[j] == c)`` with the
    hops of `scipy.sparse.csgraph.shortest_path(unweighted=True)`. Memory is that of the pairs that
    are within reach of a block of nodes, so the links should be sparse or the depth small.

    Args:
        edges: ``[E, 2]`` int64, links among the N nodes, in either direction or both.
        labels: ``[N]`` int64, at least 0.
        max_depth: at least 0.
        decay: in (0, 1].

    Raises:
        TypeError: dtypes, settings that are no numbers.
        ValueError: shapes, devices, nodes or settings out of range, negative labels.

    Source: the diffusion of consensus-driven propagation's code, which the linkage code carries but
    does not call. Equal weights of nodes at one distance, and no weight by score, are our reading.
    """
    _check.tensor("labels", labels)
    if labels.dtype is not torch.int64:
        raise TypeError(f"labels must be int64, got {str(labels.dtype)[6:]}")
    if labels.ndim != 1:
        raise ValueError(f"labels must be [N], got shape {_check.shape_of(labels)}")
    nodes = len(labels)
    _check_pairs(edges)
    _check_nodes(edges, nodes)
    _check.same_device("labels", labels, "edges", edges)
    if nodes and int(labels.min()) < 0:
        raise ValueError(f"labels must be at least 0, got {int(labels.min())}")
    max_depth, decay = _check.integer("max_depth", max_depth), _check.number("decay", decay)
    if max_depth < 0:
        raise ValueError(f"max_depth must be at least 0, got {max_depth}")
    if not 0 < decay <= 1:
        raise ValueError(f"decay must be in (0, 1], got {decay}")
    both = torch.cat((edges, edges.flip(1)))
    both = torch.unique(both, dim=0) if len(both) else both
    bounds = torch.arange(nodes + 1, device=both.device)
    indptr = torch.searchsorted(both[:, 0].contiguous(), bounds)
    names, ranks = torch.unique(labels, return_inverse=True)  # of any size: keys hold the ranks
    clusters = len(names)
    parts = [
        _diffused(torch.arange(first, min(first + _SOURCES, nodes), device=both.device),
                  indptr, both[:, 1], ranks, clusters, max_depth, decay)
        for first in range(0, nodes, _SOURCES)
    ]  # fmt: skip
    empty = labels.new_empty(0)
    keys = torch.cat([empty, *(key for key, _ in parts)])
    weights = torch.cat([empty.float(), *(weight for _, weight in parts)])
    node = torch.div(keys, max(clusters, 1), rounding_mode="floor")
    return SoftLabels(torch.searchsorted(node, bounds), names[keys % max(clusters, 1)], weights)


_SOURCES = 1024  # nodes whose surroundings are held at once


def _diffused(
    sources: Tensor,
    indptr: Tensor,
    neighbors: Tensor,
    ranks: Tensor,
    clusters: int,
    max_depth: int,
    decay: float,
) -> tuple[Tensor, Tensor]:
    """Keys source * clusters + rank of the label, ascending, and their shares."""
    nodes = len(ranks)
    seen = frontier = sources * nodes + sources  # pairs of source and node, ascending
    keys = [sources * clusters + ranks[sources]]
    weights = [torch.ones(len(sources), device=ranks.device, dtype=torch.float64)]
    for depth in range(1, max_depth + 1):
        at = frontier % nodes
        degree = indptr[at + 1] - indptr[at]
        source = torch.repeat_interleave(torch.div(frontier, nodes, rounding_mode="floor"), degree)
        first = torch.repeat_interleave(indptr[at] - (degree.cumsum(0) - degree), degree)
        reached = neighbors[first + torch.arange(len(first), device=first.device)]
        frontier = torch.unique(source * nodes + reached)
        position = torch.searchsorted(seen, frontier).clamp(max=len(seen) - 1)
        frontier = frontier[seen[position] != frontier]
        if len(frontier) == 0:
            break
        seen = torch.cat((seen, frontier)).sort().values
        source = torch.div(frontier, nodes, rounding_mode="floor")
        keys.append(source * clusters + ranks[frontier % nodes])
        weights.append(torch.full_like(keys[-1], 1, dtype=torch.float64) * decay**depth)
    key, which = torch.unique(torch.cat(keys), return_inverse=True)
    order = torch.sort(which, stable=True)
    counts = torch.bincount(which, minlength=len(key))
    summed = torch.segment_reduce(torch.cat(weights)[order.indices], "sum", lengths=counts)
    owner = torch.div(key, clusters, rounding_mode="floor") - sources[0]
    per_owner = torch.bincount(owner, minlength=len(sources))
    totals = torch.segment_reduce(summed, "sum", lengths=per_owner)
    return key, (summed / totals[owner]).float()


def relabeled(roots: Tensor) -> Tensor:
    """Labels 0, 1, ... from the smallest member of every node's cluster."""
    own = roots == torch.arange(len(roots), device=roots.device)
    return (own.cumsum(0) - 1)[roots]


def _roots(edges: Tensor, num_nodes: int, scores: Tensor | None, threshold: float | None) -> Tensor:
    if use_reference():
        kept = edges if threshold is None or scores is None else edges[scores >= threshold]
        return _reference(kept, num_nodes)
    parent = torch.empty(num_nodes, dtype=torch.int32, device=edges.device)
    roots = torch.empty(num_nodes, dtype=torch.int64, device=edges.device)
    scores = None if scores is None else scores.contiguous()
    launch(_COMPONENTS, edges.contiguous(), scores, threshold or 0.0, parent, roots)
    return roots


def _check_pairs(edges: Tensor) -> None:
    _check.tensor("edges", edges)
    if edges.dtype is not torch.int64:
        raise TypeError(f"edges must be int64, got {str(edges.dtype)[6:]}")
    if edges.ndim != 2 or edges.shape[1] != 2:
        raise ValueError(f"edges must be [E, 2], got shape {_check.shape_of(edges)}")


def _check_edges(edges: Tensor, num_nodes: int) -> None:
    _check_pairs(edges)
    if isinstance(num_nodes, bool) or not isinstance(num_nodes, int):
        raise TypeError(f"num_nodes must be an int, got {type(num_nodes).__name__}")
    if not 0 <= num_nodes < 2**31:
        raise ValueError(f"num_nodes must be at least 0 and below 2**31, got {num_nodes}")
    if use_reference() or not edges.is_cpu:  # the CPU kernel checks the nodes itself
        _check_nodes(edges, num_nodes)


def _check_nodes(edges: Tensor, num_nodes: int) -> None:
    if edges.numel() == 0:
        return
    low, high = (int(v) for v in torch.aminmax(edges))
    if low < 0 or high >= num_nodes:
        raise ValueError(
            f"edges must hold nodes from 0 to {num_nodes - 1}, got {low if low < 0 else high}"
        )


def _check_scores(edges: Tensor, scores: Tensor) -> None:
    _check.tensor("scores", scores)
    if scores.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"scores must be float32 or float64, got {str(scores.dtype)[6:]}")
    _check.shape("scores", scores, (len(edges),), "[E]")
    _check.same_device("scores", scores, "edges", edges)
