"""pivot_subgraphs and linkage_scores against sets, the dense network, and the published numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import facekernels as fk
from facekernels import ops, reference

emulated = pytest.mark.skipif(
    "emulated" not in fk.backends(), reason="built without the emulated back end"
)


def toy() -> tuple[Tensor, Tensor, Tensor]:
    """Features, labels and neighbours whose subgraphs were measured on the published code."""
    i = torch.arange(60, dtype=torch.float64).unsqueeze(1)
    d = torch.arange(16, dtype=torch.float64)
    labels = torch.arange(60) // 6
    x = torch.sin(0.37 * (labels.unsqueeze(1) + 1) * (d + 1) + 0.5 * (d + 1))
    x = F.normalize(x + 0.35 * torch.sin(1.7 * (i + 1) * (d + 1)))
    return x, labels, ops.knn_graph(x, 8).idx


def random_graph(n: int, k: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    gen = torch.Generator().manual_seed(seed)
    centers = torch.randn(max(n // 12, 1), 12, generator=gen, dtype=torch.float64)
    x = centers[torch.arange(n) % len(centers)]
    x = F.normalize(x + 0.8 * torch.randn(n, 12, generator=gen, dtype=torch.float64))
    return x, ops.knn_graph(x, k).idx


def test_published_neighbours() -> None:
    _, labels, knn = toy()
    assert knn[0].tolist() == [5, 4, 3, 1, 2, 18, 12, 14]
    assert knn[7].tolist() == [11, 6, 8, 9, 10, 33, 44, 0]
    assert (labels[knn] == labels.unsqueeze(1)).double().mean() == 0.625


def test_published_subgraphs() -> None:
    x, labels, knn = toy()
    pivots = torch.tensor([0, 7, 33])
    got = ops.pivot_subgraphs(knn, pivots, (8, 3), 3)
    assert got.node_offsets.diff().tolist() == [15, 18, 12]
    assert got.pivots.tolist() == [0, 7, 33]
    expected = [0, 1, 2, 3, 4, 5, 12, 13, 14, 15, 16, 18, 20, 22, 23]
    assert got.nodes[:15].tolist() == expected
    dense = got.dense(x, size=33)
    links = (dense.adjacency > 0).sum((1, 2))
    assert links.tolist() == [48, 52, 44]
    squares = dense.adjacency.square().sum((1, 2))
    torch.testing.assert_close(
        squares, torch.tensor([4.75, 7.03333, 3.4]).double(), rtol=0, atol=1e-5
    )
    assert dense.features[0].sum().item() == pytest.approx(-4.18646, abs=1e-5)
    assert dense.features[0].square().sum().item() == pytest.approx(17.33035, abs=1e-5)
    torch.testing.assert_close(
        dense.adjacency.sum((1, 2)), torch.tensor([15.0, 18.0, 12.0]).double()
    )
    assert (dense.adjacency.diagonal(dim1=1, dim2=2) == 0).all()
    positives = (labels[got.nodes[got.one_hop]] == labels[pivots].unsqueeze(1)).sum(1)
    assert positives.tolist() == [5, 5, 5]


SETTINGS = [
    (60, 8, (8, 3), 3),
    (200, 20, (15, 5), 6),
    (300, 25, (25, 10), 10),
    (40, 39, (39, 39), 39),
]


@pytest.mark.parametrize(("n", "k", "hop", "u"), SETTINGS)
def test_sets(n: int, k: int, hop: tuple[int, int], u: int) -> None:
    _, knn = random_graph(n, k)
    pivots = torch.randint(0, n, (11,), generator=torch.Generator().manual_seed(1))
    want = reference.pivot_subgraphs(knn, pivots, hop, u)
    for got, expected in zip(ops.pivot_subgraphs(knn, pivots, hop, u), want, strict=True):
        assert torch.equal(got, expected)


@emulated
@pytest.mark.parametrize(("n", "k", "hop", "u"), SETTINGS)
def test_emulated_cuda(n: int, k: int, hop: tuple[int, int], u: int) -> None:
    x, knn = random_graph(n, k)
    pivots = torch.randint(0, n, (5,), generator=torch.Generator().manual_seed(1))
    want = ops.pivot_subgraphs(knn, pivots, hop, u)
    weights = network(x.shape[1])
    scores = ops.linkage_scores(x, knn, pivots, weights, k_at_hop=hop, active_connection=u)
    with fk.backend("emulated"):
        for got, expected in zip(ops.pivot_subgraphs(knn, pivots, hop, u), want, strict=True):
            assert torch.equal(got, expected)
        got = ops.linkage_scores(x, knn, pivots, weights, k_at_hop=hop, active_connection=u)
    torch.testing.assert_close(got, scores, rtol=0, atol=1e-12)


@emulated
def test_rows_that_hold_a_node_twice_stay_in_bounds() -> None:
    """Not allowed, but found in public graphs: every entry is written, as on the CPU."""
    _, knn = random_graph(60, 8)
    knn[:, 1] = knn[:, 0]
    want = ops.pivot_subgraphs(knn, torch.arange(60), (8, 3), 4)
    with fk.backend("emulated"):
        got = ops.pivot_subgraphs(knn, torch.arange(60), (8, 3), 4)
    for name, mine, other in zip(want._fields, got, want, strict=True):
        assert torch.equal(mine, other), name


def test_no_pivots() -> None:
    x, knn = random_graph(30, 5)
    none = torch.empty(0, dtype=torch.int64)
    got = ops.pivot_subgraphs(knn, none, (5, 2), 3)
    assert got.indptr.tolist() == [0]
    assert got.node_offsets.tolist() == [0]
    assert ops.linkage_scores(
        x, knn, none, network(12), k_at_hop=(5, 2), active_connection=3
    ).shape == (0, 5)


def test_numpy_integers() -> None:
    _, knn = random_graph(30, 5)
    hop, links = (np.int64(5), np.int32(2)), np.int64(3)
    got = ops.pivot_subgraphs(knn, torch.arange(4), hop, links)  # type: ignore[arg-type]
    assert torch.equal(got.nodes, ops.pivot_subgraphs(knn, torch.arange(4), (5, 2), 3).nodes)


def test_threads_change_nothing() -> None:
    _, knn = random_graph(400, 30)
    pivots = torch.arange(400)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = ops.pivot_subgraphs(knn, pivots, (30, 10), 10)
        torch.set_num_threads(3)
        three = ops.pivot_subgraphs(knn, pivots, (30, 10), 10)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))


def network(width: int, channels: int = 20, seed: int = 3) -> ops.LinkageWeights:
    gen = torch.Generator().manual_seed(seed)
    c, h = channels, 14
    shapes = [
        (width,), (width,), (2 * width, c), (c,), (2 * c, c), (c,), (2 * c, 16), (16,),
        (32, 16), (16,), (h, 16), (h,), (h,), (2, h), (2,),
    ]  # fmt: skip
    values = [0.3 * torch.randn(s, generator=gen, dtype=torch.float64) for s in shapes]
    values[1] = values[1].abs() + 0.1
    return ops.LinkageWeights(*values)


@pytest.mark.parametrize("table", [True, False], ids=["table", "no table"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 5e-6), (torch.float16, 5e-3), (torch.bfloat16, 4e-2)],
)
def test_scores_of_the_dense_network(
    dtype: torch.dtype, tolerance: float, table: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hoisting the first layer and skipping rows changes nothing but rounding."""
    if not table:
        monkeypatch.setattr("facekernels.ops.linkage._TABLE_BYTES", 0)
    monkeypatch.setattr("facekernels.ops.linkage._CPU_BATCH_ROWS", 300)
    x, knn = random_graph(200, 20)
    pivots = torch.arange(0, 200, 7)
    assert len(pivots) * 20 >= 200  # enough of them for the table
    weights = network(12)
    want = reference.linkage_scores(x, knn, pivots, weights, k_at_hop=(20, 6), active_connection=6)
    assert want.std() > 0.02
    got = ops.linkage_scores(
        x.to(dtype), knn, pivots, ops.LinkageWeights(*(w.to(dtype) for w in weights)),
        k_at_hop=(20, 6), active_connection=6,
    )  # fmt: skip
    assert got.dtype == dtype
    assert (got.double() - want).abs().max() <= tolerance
    with fk.backend("reference"):
        again = ops.linkage_scores(x, knn, pivots, weights, k_at_hop=(20, 6), active_connection=6)
    assert torch.equal(again, want)


X, KNN = random_graph(30, 6)
PIVOTS = torch.arange(3)
OUTSIDE = KNN.clone()
OUTSIDE[KNN[1, 0], 1] = 30


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: ops.pivot_subgraphs(KNN[0], PIVOTS, (3, 2), 2),
            ValueError,
            r"knn must be \[N, k\]",
        ),
        (lambda: ops.pivot_subgraphs(KNN.int(), PIVOTS, (3, 2), 2), TypeError, "knn must be int64"),
        (
            lambda: ops.pivot_subgraphs(KNN, PIVOTS + 28, (3, 2), 2),
            ValueError,
            "pivots must hold nodes from 0 to 29, got 30",
        ),
        (lambda: ops.pivot_subgraphs(KNN, PIVOTS - 1, (3, 2), 2), ValueError, "got -1"),
        (
            lambda: ops.pivot_subgraphs(OUTSIDE, PIVOTS, (3, 2), 2),
            ValueError,
            "knn must hold nodes from 0 to 29, got 30",
        ),
        (
            lambda: ops.pivot_subgraphs(KNN, PIVOTS, (7, 2), 2),
            ValueError,
            "k_at_hop must be between 1 and k = 6",
        ),
        (
            lambda: ops.pivot_subgraphs(KNN, PIVOTS, (3, 0), 2),
            ValueError,
            "k_at_hop must be between",
        ),
        (lambda: ops.pivot_subgraphs(KNN, PIVOTS, (3,), 2), ValueError, "k_at_hop must be two"),
        (
            lambda: ops.pivot_subgraphs(KNN, PIVOTS, None, 2),  # type: ignore[arg-type]
            TypeError,
            r"k_at_hop must be a tuple \(k1, k2\), got NoneType",
        ),
        (
            lambda: ops.pivot_subgraphs(KNN, PIVOTS, (3.0, 2), 2),  # type: ignore[arg-type]
            TypeError,
            r"k_at_hop\[0\] must be an integer, got 3\.0 \(float\)",
        ),
        (
            lambda: ops.pivot_subgraphs(KNN, PIVOTS, (3, 2), 2.0),  # type: ignore[arg-type]
            TypeError,
            r"active_connection must be an integer, got 2\.0 \(float\)",
        ),
        (
            lambda: ops.pivot_subgraphs(KNN, PIVOTS, (3, 4), 3),
            ValueError,
            r"active_connection must be between k_at_hop\[1\] = 4",
        ),
        (lambda: ops.pivot_subgraphs(KNN, PIVOTS, (3, 2), 7), ValueError, "and k = 6, got 7"),
        (
            lambda: ops.pivot_subgraphs(KNN, PIVOTS, (3, 2), 2).dense(X, size=3),
            ValueError,
            "size must be at least",
        ),
        (
            lambda: ops.linkage_scores(X, KNN, PIVOTS, network(X.shape[1]), k_at_hop=None),  # type: ignore[arg-type]
            TypeError,
            r"k_at_hop must be a tuple \(k1, k2\), got NoneType",
        ),
        (
            lambda: ops.linkage_scores(
                X[1:], KNN, PIVOTS, network(12), k_at_hop=(3, 2), active_connection=2
            ),
            ValueError,
            r"knn must be \[29, k\]",
        ),
        (
            lambda: ops.linkage_scores(
                X, KNN, PIVOTS, network(11), k_at_hop=(3, 2), active_connection=2
            ),
            ValueError,
            "weights.mean must be",
        ),
        (
            lambda: ops.linkage_scores(
                X.float(), KNN, PIVOTS, network(12), k_at_hop=(3, 2), active_connection=2
            ),
            TypeError,
            "weights.mean must have the dtype of features",
        ),
    ],
)
def test_errors(call: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()  # type: ignore[operator]
