"""The other methods: hand-made graphs, scikit-learn where it has the same, clean identities."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from sklearn.cluster import DBSCAN
from torch import Tensor

from facekernels import ops
from facekernels.metrics import pairwise_f
from facekernels.systems.ain.linkage.peers import (
    GCNE,
    GCNV,
    ChineseWhispers,
    Infomap,
    NeighborDBSCAN,
    ThresholdComponents,
)
from facekernels.systems.ain.linkage.peers.gcn_e import candidates
from facekernels.systems.ain.linkage.peers.gcn_v import (
    confidence_to_peaks,
    neighborhood_confidence,
    normalized_graph,
    peaks_to_labels,
)
from facekernels.systems.ain.linkage.peers.graph import in_order
from facekernels.systems.ain.linkage.synthetic import synthetic_identities

METHODS = [
    ThresholdComponents(0.6),
    ChineseWhispers(0.4),
    NeighborDBSCAN(0.5, 4),
    Infomap(0.4),
]


def easy(seed: int = 0) -> tuple[Tensor, Tensor, ops.KNNGraph]:
    x, y = synthetic_identities(30, 10, 64, noise=(0.4, 0.7), seed=seed)
    return x, y, ops.knn_graph(x, 15)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_clean_identities(method: ThresholdComponents) -> None:
    if isinstance(method, Infomap):
        pytest.importorskip("infomap")
    _, y, graph = easy()
    labels = method.cluster(*graph)
    assert pairwise_f(y, labels).f > 0.98
    assert labels.dtype == np.int64
    assert (labels == in_order(labels)).all()
    assert (method.cluster(*graph) == labels).all()


@pytest.mark.parametrize("method", METHODS[:3], ids=lambda m: type(m).__name__)
def test_arrays_are_taken_as_tensors_are(method: ThresholdComponents) -> None:
    _, _, (idx, sim) = easy()
    assert (method.cluster(idx.numpy(), sim.numpy()) == method.cluster(idx, sim)).all()


@pytest.mark.parametrize("method", [METHODS[0], METHODS[2]], ids=lambda m: type(m).__name__)
def test_numbering_of_nodes_does_not_matter(method: ThresholdComponents) -> None:
    """Similarities differ, so numbers decide no tie. Label propagation may depend on them."""
    _, _, (idx, sim) = easy()
    order = torch.randperm(len(idx), generator=torch.Generator().manual_seed(1))
    moved = method.cluster(order.argsort()[idx[order]], sim[order])
    assert (moved == in_order(method.cluster(idx, sim)[order])).all()


def test_threshold_by_hand() -> None:
    idx = torch.tensor([[1], [2], [1], [0]])
    sim = torch.tensor([[0.9], [0.5], [0.7], [0.1]])
    assert ThresholdComponents(0.6).cluster(idx, sim).tolist() == [0, 0, 0, 1]
    assert ThresholdComponents(0.8).cluster(idx, sim).tolist() == [0, 0, 1, 2]


def test_whispers_by_hand() -> None:
    """Two triangles and a weak bridge; a node alone."""
    idx = torch.tensor([[1, 2], [0, 2], [0, 1], [4, 5], [3, 5], [3, 4], [0, 3]])
    sim = torch.tensor([[0.9, 0.9]] * 6 + [[0.1, 0.1]])
    assert ChineseWhispers(0.5).cluster(idx, sim).tolist() == [0, 0, 0, 1, 1, 1, 2]


@pytest.mark.parametrize("seed", range(6))
def test_dbscan_of_the_complete_graph_is_scikit_learns(seed: int) -> None:
    x, _ = synthetic_identities(8, 9, 16, noise=(0.6, 1.6), seed=seed)
    idx, sim = ops.knn_graph(x, len(x) - 1)
    full = torch.eye(len(x)).scatter(1, idx, sim)
    full = torch.maximum(full, full.T)
    for threshold, neighbors in ((0.5, 3), (0.4, 5), (0.6, 2)):
        distance = (1 - full).clamp(min=0).double().numpy()
        want = DBSCAN(eps=1 - threshold + 1e-7, min_samples=neighbors, metric="precomputed").fit(
            distance
        )
        got = NeighborDBSCAN(threshold, neighbors).cluster(idx, sim)
        core = np.zeros(len(x), dtype=bool)
        core[want.core_sample_indices_] = True
        # The cores' partition is the same; border nodes may choose between clusters.
        assert (in_order(want.labels_[core]) == in_order(got[core])).all()
        noise = want.labels_ == -1
        assert (np.bincount(got)[got[noise]] == 1).all()
        for node in np.flatnonzero(~core & ~noise):
            best = max(np.flatnonzero(core), key=lambda c: (full[node, c].item(), -c))
            assert got[node] == got[best]


def test_infomap_leaves_nodes_without_links_alone() -> None:
    pytest.importorskip("infomap")
    idx = torch.tensor([[1, 2], [0, 2], [0, 1], [0, 1]])
    sim = torch.tensor([[0.9, 0.9], [0.9, 0.9], [0.9, 0.9], [0.1, 0.1]])
    assert Infomap(0.5).cluster(idx, sim).tolist() == [0, 0, 0, 1]
    assert Infomap(0.95).cluster(idx, sim).tolist() == [0, 1, 2, 3]


def test_infomap_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "infomap", None)
    with pytest.raises(ImportError, match=r"pip install 'facekernels\[scale\]'"):
        Infomap()


def test_confidence_without_any_is_zero() -> None:
    got = neighborhood_confidence(IDX, torch.ones(2, 1), torch.tensor([0, 1]))
    assert got.tolist() == [0, 0]


def test_confidence_by_hand() -> None:
    idx = torch.tensor([[1, 2], [0, 2], [1, 0]])
    sim = torch.tensor([[0.8, 0.4], [0.8, 0.6], [0.6, 0.4]])
    got = neighborhood_confidence(idx, sim, torch.tensor([0, 0, 1]))
    # 1 + 0.8 - 0.4, 1 + 0.8 - 0.6, 1 - 0.6 - 0.4
    torch.testing.assert_close(got, torch.tensor([1.4, 1.2, 0.0]) / 1.4)
    peak, similarity = confidence_to_peaks(got, idx, sim)
    assert peak.tolist() == [-1, 0, 1]
    assert peaks_to_labels(peak, similarity, 0.5).tolist() == [0, 0, 0]
    assert peaks_to_labels(peak, similarity, 0.7).tolist() == [0, 0, 1]


def test_normalized_graph_is_the_dense_one() -> None:
    x, _, (idx, sim) = easy()
    dense = torch.zeros(len(x), len(x)).scatter(1, idx, sim.clamp(min=0))
    dense = torch.maximum(dense, dense.T) + torch.eye(len(x))
    dense /= dense.sum(1, keepdim=True)
    indptr, indices, weights = normalized_graph(idx, sim)
    rows = torch.repeat_interleave(torch.arange(len(x)), indptr.diff())
    got = torch.zeros_like(dense)
    got[rows, indices] = weights
    torch.testing.assert_close(got, dense)


def test_gcn_v_fits_confidence() -> None:
    """On its own identities."""
    x, y = synthetic_identities(40, 15, 32, noise=(0.6, 1.2))
    graph = ops.knn_graph(x, 20)
    trained = GCNV(0.4, hidden=64, steps=600, lr=0.3).fit(x, *graph, y)
    untrained = GCNV(0.4, hidden=64, steps=0).fit(x, *graph, y)
    assert trained.losses[-1] < 0.1 * trained.losses[0]
    target = neighborhood_confidence(*graph, y)
    assert np.corrcoef(trained.confidence(x, *graph).numpy(), target.numpy())[0, 1] > 0.9
    scores = [pairwise_f(y, model.cluster(x, *graph)).f for model in (untrained, trained)]
    assert scores[1] > scores[0] + 0.1
    with pytest.raises(ValueError, match="not trained: call fit first"):
        GCNV().cluster(x, *graph)


def test_gcn_v_learns_others_from_rotated_features() -> None:
    """Identities that it has not seen: better than its untrained self and the best threshold."""
    noise = (0.6, 1.2)
    x, y = synthetic_identities(60, 15, 32, noise=noise, seed=10)
    other, truth = synthetic_identities(60, 15, 32, noise=noise, seed=20)
    graph, unseen = ops.knn_graph(x, 20), ops.knn_graph(other, 20)
    settings = {"tau": 0.55, "hidden": 128, "lr": 0.3}
    trained = GCNV(**settings, steps=1500, rotate=True).fit(x, *graph, y)
    untrained = GCNV(**settings, steps=0).fit(x, *graph, y)
    f, before = (pairwise_f(truth, m.cluster(other, *unseen)).f for m in (trained, untrained))
    threshold = max(
        pairwise_f(truth, ThresholdComponents(t / 20).cluster(*unseen)).f for t in range(6, 18)
    )
    assert f > before + 0.03
    assert f > threshold + 0.05
    assert (
        np.corrcoef(trained.confidence(other, *unseen), neighborhood_confidence(*unseen, truth))[
            0, 1
        ]
        > 0.4
    )


def test_candidates_are_the_dense_ones() -> None:
    x, _, (idx, sim) = easy()
    confidence = torch.rand(len(x), generator=torch.Generator().manual_seed(0))
    graph = normalized_graph(idx, sim)
    pivots = torch.arange(0, len(x), 3)
    got = candidates(pivots, confidence, idx, graph)
    rows = torch.repeat_interleave(torch.arange(len(x)), graph[0].diff())
    dense = torch.zeros(len(x), len(x))
    dense[rows, graph[1]] = graph[2]
    first = 0
    for pivot in pivots.tolist():
        nodes = idx[pivot][confidence[idx[pivot]] > confidence[pivot]]
        block = slice(first, first + len(nodes))
        first += len(nodes)
        assert got.nodes[block].tolist() == nodes.tolist()
        assert (got.pivots[block] == pivot).all()
        part = dense[nodes][:, nodes]
        mean = ops.neighbor_mean(x[got.nodes], got.indptr, got.indices, got.weights)[block]
        torch.testing.assert_close(mean, part / part.sum(1, keepdim=True) @ x[nodes])
    assert first == len(got.nodes) > 0


def test_gcn_e_learns_links_and_keeps_the_others() -> None:
    x, y = synthetic_identities(40, 15, 32, noise=(0.6, 1.2), seed=10)
    graph = ops.knn_graph(x, 20)
    base = GCNV(0.5, hidden=64, lr=0.3, steps=300, rotate=True).fit(x, *graph, y)
    small = {"tau": 0.5, "channels": (64, 64, 32, 32), "lr": 0.05}
    untrained = GCNE(base, **small, epochs=0, ignore=0.3).fit(x, *graph, y)
    trained = GCNE(base, **small, epochs=20, ignore_train=0.3, ignore=0.3).fit(x, *graph, y)
    assert np.mean(trained.losses[-10:]) < 0.5 * trained.losses[0]
    f, before = (pairwise_f(y, model.cluster(x, *graph)).f for model in (trained, untrained))
    assert f > before + 0.1
    assert f > pairwise_f(y, base.cluster(x, *graph)).f
    trained.ignore = 1.0  # nobody is left to it
    assert trained.cluster(x, *graph).tolist() == base.cluster(x, *graph).tolist()
    with pytest.raises(ValueError, match="not trained: call fit first"):
        GCNE(base).cluster(x, *graph)


IDX, SIM = torch.tensor([[1], [0]]), torch.tensor([[0.5], [0.5]])
WITH_SELF = torch.tensor([[1, 1], [1, 0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ThresholdComponents(1.5), r"threshold must be a similarity in \[-1, 1\], got 1.5"),
        (lambda: ChineseWhispers(0.5, 0), "iterations must be at least 1"),
        (lambda: NeighborDBSCAN(0.5, 0), "min_neighbors must be at least 1"),
        (lambda: Infomap(2.0), r"min_sim must be a similarity in \[-1, 1\], got 2.0"),
        (lambda: GCNV(1.5), r"tau must be a similarity in \[-1, 1\], got 1.5"),
        (lambda: GCNE(tau=-2), r"tau must be a similarity in \[-1, 1\], got -2"),
        (lambda: GCNE(ignore=1.5), r"ignore must be a share in \[0, 1\], got 1.5"),
        (lambda: GCNE(batch_size=0), "batch_size at least 1, got 40 and 0"),
        (lambda: GCNV(steps=-1), "steps at least 0, got 512 and -1"),
        (lambda: GCNV().fit(SIM, IDX, SIM, IDX[:, 0][:1]), r"labels must be \[N\] = \(2,\)"),
        (lambda: GCNV().fit(SIM[:1], IDX, SIM, IDX[:, 0]), r"features must be \[N, D\] = \(2, D\)"),
        (
            lambda: GCNV(steps=0).fit(SIM, IDX, SIM, IDX[:, 0]).cluster(torch.ones(2, 5), IDX, SIM),
            r"features must be \[N, D\] = \(2, 1\) float32, got \(2, 5\)",
        ),
        (lambda: ThresholdComponents().cluster(IDX, SIM * torch.nan), "sim must be finite"),
        (lambda: ThresholdComponents().cluster(-IDX, SIM), "from 0 to 1, got -1 to 0"),
        (
            lambda: ThresholdComponents().cluster(WITH_SELF, SIM.expand(2, 2)),
            r"idx must not hold the node itself, got node 1 in its own row: drop that column",
        ),
        (lambda: GCNV().fit(SIM, WITH_SELF, SIM.expand(2, 2), IDX[:, 0]), "the node itself"),
        (lambda: Infomap(seed=0), "seed and trials must be at least 1"),
        (lambda: ThresholdComponents().cluster(IDX[:, :0], SIM[:, :0]), r"idx must be \[N, k\]"),
        (lambda: ThresholdComponents().cluster(IDX.int(), SIM), r"idx must be \[N, k\] int64"),
        (lambda: ThresholdComponents().cluster(IDX, SIM[:1]), r"sim must be \(2, 1\)"),
        (lambda: ThresholdComponents().cluster(IDX + 1, SIM), "idx must hold nodes from 0 to 1"),
    ],
)
def test_errors(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
