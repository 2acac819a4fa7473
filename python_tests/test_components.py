"""Components, pooling, rising thresholds and diffusion against SciPy and a plain oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components as scipy_components
from scipy.sparse.csgraph import shortest_path
from torch import Tensor

import facekernels as fk
from facekernels import ops

emulated = pytest.mark.skipif(
    "emulated" not in fk.backends(), reason="built without the emulated back end"
)


def scipy_labels(edges: Tensor, nodes: int) -> Tensor:
    """SciPy's components, renumbered in the order of their smallest member."""
    ones = np.ones(len(edges))
    graph = coo_array((ones, (edges[:, 0].numpy(), edges[:, 1].numpy())), shape=(nodes, nodes))
    labels = scipy_components(graph, directed=False)[1]
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return torch.from_numpy(np.argsort(np.argsort(first))[inverse])


@settings(max_examples=60, deadline=None)
@given(nodes=st.integers(1, 60), count=st.integers(0, 80), seed=st.integers(0, 999))
def test_scipy(nodes: int, count: int, seed: int) -> None:
    gen = torch.Generator().manual_seed(seed)
    edges = torch.randint(0, nodes, (count, 2), generator=gen)
    scores = torch.rand(count, generator=gen)
    assert torch.equal(ops.connected_components(edges, nodes), scipy_labels(edges, nodes))
    want = scipy_labels(edges[scores >= 0.5], nodes)
    assert torch.equal(ops.threshold_clusters(edges, scores, 0.5, num_nodes=nodes), want)
    with fk.backend("reference"):
        got = ops.connected_components(edges, nodes, scores=scores, threshold=0.5)
    assert torch.equal(got, want)


@pytest.mark.parametrize("nodes", [1, 1000, 20000])
def test_long_paths_and_any_order(nodes: int) -> None:
    """A path given backwards is the worst case of hooking."""
    path = torch.stack((torch.arange(nodes - 1), torch.arange(1, nodes)), 1)
    order = torch.randperm(nodes - 1, generator=torch.Generator().manual_seed(0))
    for edges in (path, path.flip(0), path.flip(1)[order]):
        assert (ops.connected_components(edges, nodes) == 0).all()


@emulated
@pytest.mark.parametrize(("nodes", "count"), [(1, 0), (40, 25), (500, 450), (300, 3000)])
def test_emulated_cuda(nodes: int, count: int) -> None:
    gen = torch.Generator().manual_seed(nodes)
    edges = torch.randint(0, nodes, (count, 2), generator=gen)
    scores = torch.rand(count, generator=gen)
    want = ops.connected_components(edges, nodes, scores=scores, threshold=0.3)
    with fk.backend("emulated"):
        got = ops.connected_components(edges, nodes, scores=scores, threshold=0.3)
    assert torch.equal(got, want)


def test_nan_reaches_no_threshold() -> None:
    edges = torch.tensor([[0, 1], [1, 2]])
    scores = torch.tensor([float("nan"), 1.0])
    assert ops.threshold_clusters(edges, scores, -1.0, num_nodes=3).tolist() == [0, 1, 1]


def test_no_nodes() -> None:
    none = torch.empty(0, 2, dtype=torch.int64)
    assert len(ops.connected_components(none, 0)) == 0
    assert ops.connected_components(none, 3).tolist() == [0, 1, 2]


# ---- Pooling


def test_pooling_of_repeated_pairs() -> None:
    edges = torch.tensor([[0, 1], [1, 0], [2, 1], [0, 1]])
    scores = torch.tensor([1.0, 0.0, 0.5, 0.25])
    for mode, first in (("mean", 1.25 / 3), ("max", 1.0), ("last", 0.25)):
        pooled = ops.pool_edges(edges, scores, mode)
        assert pooled.edges.tolist() == [[0, 1], [1, 2]]
        assert pooled.scores.tolist() == pytest.approx([first, 0.5])
    assert len(ops.pool_edges(edges[:0], scores[:0]).scores) == 0


def test_mean_of_three_is_a_mean() -> None:
    """(1, 0, 0) -> 1/3; halving at each occurrence, as one published code does, gives 1/4."""
    pooled = ops.pool_edges(torch.tensor([[3, 1]] * 3), torch.tensor([1.0, 0, 0]))
    assert pooled.scores.item() == pytest.approx(1 / 3)


# ---- Rising thresholds


def rising(
    edges: list[list[int]], scores: list[float], size: int, step: float, nodes: int
) -> Tensor:
    """The published rule, with sets, for scores below 1."""
    labels: dict[int, int] = {}
    remaining = set(range(nodes))
    threshold = min(scores)
    while remaining:
        parent = {n: n for n in remaining}

        def find(n: int, parent: dict[int, int] = parent) -> int:
            while parent[n] != n:
                n = parent[n]
            return n

        for (a, b), score in zip(edges, scores, strict=True):
            if a in remaining and b in remaining and score >= threshold:
                a, b = sorted((find(a), find(b)))
                parent[b] = a
        groups: dict[int, list[int]] = {}
        for n in remaining:
            groups.setdefault(find(n), []).append(n)
        for root, members in groups.items():
            if len(members) <= size:
                labels.update(dict.fromkeys(members, root))
                remaining -= set(members)
        threshold += (1 - threshold) * step
    roots = sorted(set(labels.values()))
    return torch.tensor([roots.index(labels[n]) for n in range(nodes)])


@settings(max_examples=60, deadline=None)
@given(
    nodes=st.integers(2, 30), count=st.integers(1, 70), size=st.integers(1, 9),
    step=st.floats(0.1, 0.9), seed=st.integers(0, 999),
)  # fmt: skip
def test_rising_threshold(nodes: int, count: int, size: int, step: float, seed: int) -> None:
    gen = torch.Generator().manual_seed(seed)
    pooled = ops.pool_edges(
        torch.randint(0, nodes, (count, 2), generator=gen),
        0.98 * torch.rand(count, generator=gen, dtype=torch.float64),
    )
    got = ops.link_clusters(*pooled, max_size=size, step=step, num_nodes=nodes)
    want = rising(pooled.edges.tolist(), pooled.scores.tolist(), size, step, nodes)
    assert torch.equal(got, want)


def test_saturated_scores_end_and_stay_apart() -> None:
    """One published code hangs here, another merges the two paths."""
    edges = torch.tensor([[0, 1], [1, 2], [3, 4], [4, 5], [6, 7]])
    scores = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.2])
    with pytest.warns(UserWarning, match="2 clusters have more than max_size = 2 nodes"):
        got = ops.link_clusters(edges, scores, max_size=2, num_nodes=9)
    assert got.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 3]


def test_scores_just_below_one_are_told_apart() -> None:
    edges = torch.tensor([[0, 1], [1, 2]])
    scores = torch.tensor([1.0, 1 - 2.0**-24])
    assert ops.link_clusters(edges, scores, max_size=2, num_nodes=3).tolist() == [0, 0, 1]


@pytest.mark.parametrize("score", [0.6, 0.84, 1 - 2.0**-24])
@pytest.mark.parametrize("lowest", [0.0, 0.2, 0.3, 0.5])
def test_float32_scores_at_a_threshold_end(score: float, lowest: float) -> None:
    """0.84 in float32 lies below the threshold 0.84 that it is rounded from."""
    edges = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 4], [6, 7]])
    scores = torch.tensor([score] * 4 + [lowest])
    got = ops.link_clusters(edges, scores, max_size=3, num_nodes=8)
    exact = rising(edges.tolist(), scores.tolist(), 3, 0.6, 8)
    assert torch.equal(got, exact)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", range(8))
def test_nearly_saturated_float32_scores_end(seed: int) -> None:
    gen = torch.Generator().manual_seed(seed)
    pooled = ops.pool_edges(
        torch.randint(0, 400, (1200, 2), generator=gen),
        torch.sigmoid(3 * torch.randn(1200, generator=gen) + 12).clamp(max=1 - 2.0**-24),
    )
    got = ops.link_clusters(*pooled, max_size=20, num_nodes=400)
    assert torch.bincount(got).max() <= 20


@pytest.mark.filterwarnings("error")
def test_nodes_without_edges_are_clusters() -> None:
    none = torch.empty(0, 2, dtype=torch.int64)
    assert ops.link_clusters(none, torch.empty(0), num_nodes=3).tolist() == [0, 1, 2]


# ---- Diffusion


@settings(max_examples=30, deadline=None)
@given(nodes=st.integers(1, 25), count=st.integers(0, 40), depth=st.integers(0, 4),
       seed=st.integers(0, 99))  # fmt: skip
def test_diffusion_by_shortest_paths(nodes: int, count: int, depth: int, seed: int) -> None:
    gen = torch.Generator().manual_seed(seed)
    edges = torch.randint(0, nodes, (count, 2), generator=gen)
    labels = torch.randint(0, 4, (nodes,), generator=gen)
    ones = np.ones(count)
    graph = coo_array((ones, (edges[:, 0].numpy(), edges[:, 1].numpy())), shape=(nodes, nodes))
    hops = shortest_path(graph.tocsr(), directed=False, unweighted=True)
    weight = np.where(hops <= depth, 0.6 ** np.minimum(hops, 99), 0)
    want = np.stack([weight[:, labels.numpy() == c].sum(1) for c in range(4)], 1)
    want /= want.sum(1, keepdims=True)
    got = ops.label_diffusion(edges, labels, max_depth=depth)
    dense = torch.zeros(nodes, 4)
    node = torch.repeat_interleave(torch.arange(nodes), got.indptr.diff())
    dense[node, got.labels] = got.weights
    np.testing.assert_allclose(dense.numpy(), want, atol=1e-6)


def test_diffusion_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    gen = torch.Generator().manual_seed(0)
    edges = torch.randint(0, 50, (60, 2), generator=gen)
    labels = torch.randint(0, 9, (50,), generator=gen)
    want = ops.label_diffusion(edges, labels)
    monkeypatch.setattr("facekernels.ops.components._SOURCES", 7)
    for a, b in zip(ops.label_diffusion(edges, labels), want, strict=True):
        torch.testing.assert_close(a, b)


@settings(max_examples=20, deadline=None)
@given(names=st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=9, unique=True),
       seed=st.integers(0, 99))  # fmt: skip
def test_diffusion_of_labels_of_any_size(names: list[int], seed: int) -> None:
    gen = torch.Generator().manual_seed(seed)
    edges = torch.randint(0, 12, (20, 2), generator=gen)
    ranks = torch.randint(0, len(names), (12,), generator=gen)
    name_of = torch.tensor(sorted(names))
    got, want = ops.label_diffusion(edges, name_of[ranks]), ops.label_diffusion(edges, ranks)
    assert torch.equal(got.labels, name_of[want.labels])
    assert torch.equal(got.indptr, want.indptr)
    assert torch.equal(got.weights, want.weights)


def test_thresholds_of_other_number_types() -> None:
    for threshold in (np.float32(0.6), np.float64(0.6), 1, np.int64(1)):
        want = [0, 0, 1] if threshold < 1 else [0, 1, 2]
        edges, scores = torch.tensor([[0, 1], [1, 2]]), torch.tensor([0.9, 0.5])
        got = ops.threshold_clusters(edges, scores, threshold, num_nodes=3)
        assert got.tolist() == want


EDGES = torch.tensor([[0, 1], [1, 2]])
SCORES = torch.tensor([0.5, 0.9])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: ops.connected_components(EDGES, 2),
            ValueError,
            "edges must hold nodes (between 0 and 1|from 0 to 1), got 2",
        ),
        (lambda: ops.connected_components(EDGES - 1, 3), ValueError, "got -1"),
        (
            lambda: ops.connected_components(EDGES.int(), 3),
            TypeError,
            "edges must be int64, got int32",
        ),
        (
            lambda: ops.connected_components(EDGES.flatten(), 3),
            ValueError,
            r"edges must be \[E, 2\]",
        ),
        (lambda: ops.connected_components(EDGES, 2**31), ValueError, "below 2\\*\\*31"),
        (lambda: ops.connected_components(EDGES, -1), ValueError, "num_nodes must be at least 0"),
        (lambda: ops.connected_components(EDGES, 3.0), TypeError, "num_nodes must be an int"),
        (lambda: ops.connected_components(EDGES, 3, scores=SCORES), ValueError, "go together"),
        (
            lambda: ops.threshold_clusters(EDGES, SCORES[:1], 0.5, num_nodes=3),
            ValueError,
            "scores must be",
        ),
        (
            lambda: ops.threshold_clusters(EDGES, SCORES.half(), 0.5, num_nodes=3),
            TypeError,
            "scores must be float32 or float64",
        ),
        (lambda: ops.pool_edges(EDGES, SCORES, "avg"), ValueError, "mode must be one of 'mean'"),
        (lambda: ops.pool_edges(EDGES - 1, SCORES), ValueError, "nodes of at least 0, got -1"),
        (lambda: ops.pool_edges(EDGES + 2**32, SCORES), ValueError, "nodes below"),
        (
            lambda: ops.link_clusters(EDGES, SCORES + 1, num_nodes=3),
            ValueError,
            r"scores must be finite and at most 1, got 1\.5",
        ),
        (
            lambda: ops.link_clusters(EDGES, SCORES * float("nan"), num_nodes=3),
            ValueError,
            "scores must be finite and at most 1, got nan",
        ),
        (
            lambda: ops.link_clusters(EDGES, torch.tensor([0.5, -torch.inf]), num_nodes=3),
            ValueError,
            "scores must be finite and at most 1, got -inf",
        ),
        (
            lambda: ops.link_clusters(EDGES, SCORES, step="a", num_nodes=3),  # type: ignore[arg-type]
            TypeError,
            r"step must be a number, got 'a' \(str\)",
        ),
        (
            lambda: ops.threshold_clusters(EDGES, SCORES, torch.tensor(0.5), num_nodes=3),  # type: ignore[arg-type]
            TypeError,
            "threshold must be a number, got Tensor",
        ),
        (
            lambda: ops.threshold_clusters(EDGES, SCORES, "0.5", num_nodes=3),  # type: ignore[arg-type]
            TypeError,
            r"threshold must be a number, got '0.5' \(str\)",
        ),
        (
            lambda: ops.threshold_clusters(EDGES, SCORES, float("nan"), num_nodes=3),
            ValueError,
            "threshold must be a number, got nan",
        ),
        (
            lambda: ops.link_clusters(EDGES, SCORES, step=1.0, num_nodes=3),
            ValueError,
            r"step must be in \(0, 1\)",
        ),
        (
            lambda: ops.link_clusters(EDGES, SCORES, max_size=0, num_nodes=3),
            ValueError,
            "max_size must be",
        ),
        (
            lambda: ops.link_clusters(EDGES, SCORES, num_nodes=2),
            ValueError,
            "edges must hold nodes",
        ),
        (
            lambda: ops.label_diffusion(EDGES, torch.tensor([0, -1, 0])),
            ValueError,
            "labels must be at least 0",
        ),
        (
            lambda: ops.label_diffusion(EDGES, torch.tensor([0, 1, 0]), decay=0),
            ValueError,
            "decay must be",
        ),
        (
            lambda: ops.label_diffusion(EDGES, torch.tensor([0, 1, 0]), max_depth=1.5),  # type: ignore[arg-type]
            TypeError,
            r"max_depth must be an integer, got 1\.5 \(float\)",
        ),
        (
            lambda: ops.label_diffusion(EDGES, torch.tensor([0, 1, 0], dtype=torch.int32)),
            TypeError,
            "labels must be int64, got int32",
        ),
        (
            lambda: ops.label_diffusion(EDGES, torch.tensor([0, 1])),
            ValueError,
            "edges must hold nodes from 0 to 1, got 2",
        ),
        (
            lambda: ops.label_diffusion(EDGES - 1, torch.tensor([0, 1])),
            ValueError,
            "edges must hold nodes from 0 to 1, got -1",
        ),
    ],
)
def test_errors(call: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()  # type: ignore[operator]
