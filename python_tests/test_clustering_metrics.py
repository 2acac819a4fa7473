"""Measures of clusterings: the published numbers, definitions over pairs, scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from facekernels.metrics import bcubed_f, nmi, pairwise_f, single_removed

TRUE = [0, 0, 0, 1, 1, 2, 2, 2, 2, 3]
PRED = [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]


def published_draw() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    state = np.random.RandomState(0)
    true = state.randint(0, 50, 2000)
    return true, np.where(state.rand(2000) < 0.7, true, state.randint(0, 80, 2000))


def test_small_golden_numbers() -> None:
    assert pairwise_f(TRUE, PRED) == pytest.approx((0.5, 0.4, 0.4444444), abs=1e-6)
    assert bcubed_f(TRUE, PRED) == pytest.approx((0.733333, 0.666667, 0.698413), abs=1e-6)
    assert nmi(TRUE, PRED) == pytest.approx(0.678716, abs=1e-6)


def test_large_golden_numbers() -> None:
    true, pred = published_draw()
    assert pairwise_f(true, pred) == pytest.approx((0.584877, 0.470198, 0.521305), abs=1e-6)
    assert bcubed_f(true, pred) == pytest.approx((0.557774, 0.484604, 0.518621), abs=1e-6)
    assert nmi(true, pred) == pytest.approx(0.693955, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_definitions_over_all_pairs(seed: int) -> None:
    generator = np.random.default_rng(seed)
    true, pred = generator.integers(0, 6, (2, 40))
    same_true, same_pred = true[:, None] == true, pred[:, None] == pred
    both, off = same_true & same_pred, ~np.eye(40, dtype=bool)
    together = (both & off).sum()
    assert pairwise_f(true, pred)[:2] == pytest.approx(
        (together / (same_pred & off).sum(), together / (same_true & off).sum())
    )
    assert bcubed_f(true, pred)[:2] == pytest.approx(
        ((both.sum(1) / same_pred.sum(1)).mean(), (both.sum(1) / same_true.sum(1)).mean())
    )


@pytest.mark.parametrize("seed", range(5))
def test_nmi_is_that_of_sklearn(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    true, pred = np.random.default_rng(seed).integers(0, 9, (2, 100))
    assert nmi(true, pred) == pytest.approx(metrics.normalized_mutual_info_score(true, pred))


def test_names_of_labels_do_not_matter() -> None:
    true, pred = published_draw()
    far = (pred - 40) * 2**55  # sorted, not counted
    for measure in (pairwise_f, bcubed_f, nmi):
        assert measure(true, far) == measure(true, pred)
        assert measure(torch.from_numpy(true), pred.astype(np.int16) - 7) == measure(true, pred)


@pytest.mark.parametrize(
    ("true", "pred", "pairs", "items", "information"),
    [
        ([0, 0, 1], [5, 5, 9], (1, 1, 1), (1, 1, 1), 1),
        ([7], [3], (0, 0, 0), (1, 1, 1), 1),  # no pair at all
        ([0, 0, 0], [0, 1, 2], (0, 0, 0), (1, 1 / 3, 0.5), 0),  # only singletons predicted
        ([0, 1, 2], [4, 4, 4], (0, 0, 0), (1 / 3, 1, 0.5), 0),
    ],
)
def test_extremes(
    true: list[int],
    pred: list[int],
    pairs: tuple[float, ...],
    items: tuple[float, ...],
    information: float,
) -> None:
    assert pairwise_f(true, pred) == pytest.approx(pairs)
    assert bcubed_f(true, pred) == pytest.approx(items)
    assert nmi(true, pred) == pytest.approx(information)


def test_single_removed_drops_predicted_singletons() -> None:
    true, pred = single_removed([3, 1, 1, 2, 2], [0, 5, 5, -1, 4])
    assert true.tolist() == [1, 1]
    assert pred.tolist() == [5, 5]
    assert [len(a) for a in single_removed([1, 1], [0, 1])] == [0, 0]


def test_squares_of_large_clusters_do_not_overflow() -> None:
    one = np.zeros(200_000, dtype=np.int32)  # 4e10 pairs
    assert pairwise_f(one, one) == (1, 1, 1)


@pytest.mark.parametrize("measure", [pairwise_f, bcubed_f, nmi, single_removed])
@pytest.mark.parametrize(
    ("true", "pred", "error", "message"),
    [
        ([0, 1], [0], ValueError, r"pred must have as many labels as true \(2\), got 1"),
        ([], [], ValueError, r"true must be \[N\] labels with N >= 1, got shape \(0,\)"),
        ([[0]], [0], ValueError, r"true must be \[N\] labels"),
        ([0], [0.5], TypeError, "pred must hold integers, got float64"),
        ([0], np.array([2**63], np.uint64), ValueError, "pred must fit into int64"),
    ],
)
def test_bad_labels(
    measure: object, true: object, pred: object, error: type[Exception], message: str
) -> None:
    assert callable(measure)
    with pytest.raises(error, match=message):
        measure(true, pred)
