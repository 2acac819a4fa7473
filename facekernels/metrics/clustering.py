"""Agreement of predicted clusters with identities, from the pairs of labels that occur.

Labels are any integers. The contingency table is never dense: millions of labels take one sort.
Counts are int64, so squares of cluster sizes up to 3e9 are exact; ratios are float64.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Labels = Any
"""``[N]`` integers: a tensor, an array or a sequence."""


class ClusteringScores(NamedTuple):
    """Each in [0, 1]."""

    precision: float
    recall: float
    f: float
    """Harmonic mean of the two; 0 if both are."""


def pairwise_f(true: Labels, pred: Labels) -> ClusteringScores:
    """Of all pairs put together, the share that belongs together, and the reverse.

    Equivalent to, with ``n_ij`` items of identity i in cluster j::

        together = sum(n_ij * (n_ij - 1))
        precision = together / sum(n_j * (n_j - 1))
        recall = together / sum(n_i * (n_i - 1))

    A prediction without any pair has precision 0, and identities without any pair recall 0 (the
    published code gives NaN).

    Args:
        true: ``[N]`` identities, N >= 1.
        pred: ``[N]`` clusters. -1 is a label like others, not "no cluster".

    Raises:
        TypeError: labels that are not integers.
        ValueError: labels that are not ``[N]`` of the same N >= 1.
    """
    table = _contingency(true, pred)
    together = _pairs(table.counts)
    return _scores(
        _ratio(together, _pairs(table.pred_sizes)), _ratio(together, _pairs(table.true_sizes))
    )


def bcubed_f(true: Labels, pred: Labels) -> ClusteringScores:
    """Mean over items of the share of their cluster that has their identity, and the reverse.

    Equivalent to, with ``n_ij`` items of identity i in cluster j::

        precision = sum(n_ij**2 / n_j) / N
        recall = sum(n_ij**2 / n_i) / N

    Arguments and errors as for `pairwise_f`. Source: Bagga and Baldwin, 1998; Amigó et al., 2009.
    """
    table = _contingency(true, pred)
    squares = table.counts.astype(np.float64) ** 2
    items = table.counts.sum()
    return _scores(
        float((squares / table.pred_sizes[table.pred]).sum() / items),
        float((squares / table.true_sizes[table.true]).sum() / items),
    )


def nmi(true: Labels, pred: Labels) -> float:
    """Mutual information over the mean of both entropies, in [0, 1].

    Equals ``sklearn.metrics.normalized_mutual_info_score``: 1 if both have a single cluster, 0 if
    only one of them has. Arguments and errors as for `pairwise_f`.
    """
    table = _contingency(true, pred)
    if len(table.true_sizes) == len(table.pred_sizes) == 1:
        return 1.0
    items = table.counts.sum()
    share = table.counts / items
    expected = (table.true_sizes / items)[table.true] * (table.pred_sizes / items)[table.pred]
    information = float((share * np.log(share / expected)).sum())
    entropies = _entropy(table.true_sizes / items) + _entropy(table.pred_sizes / items)
    return min(max(2 * information / entropies, 0.0), 1.0)


def single_removed(true: Labels, pred: Labels) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Both labels of the items that do not make up a predicted cluster alone, in their order.

    The published protocol reports scores with and without them. Arguments and errors as for
    `pairwise_f`; the result may be empty.
    """
    true_labels, pred_labels = _labels("true", true), _labels("pred", pred)
    _same_length(true_labels, pred_labels)
    _, inverse, sizes = np.unique(pred_labels, return_inverse=True, return_counts=True)
    kept = sizes[inverse] > 1
    return true_labels[kept], pred_labels[kept]


class _Table(NamedTuple):
    """Cells of the contingency table that are not 0."""

    true: NDArray[np.int64]
    pred: NDArray[np.int64]
    counts: NDArray[np.int64]
    true_sizes: NDArray[np.int64]
    pred_sizes: NDArray[np.int64]


def _contingency(true: Labels, pred: Labels) -> _Table:
    true_labels, pred_labels = _labels("true", true), _labels("pred", pred)
    _same_length(true_labels, pred_labels)
    rows, true_sizes = _ranked(true_labels)
    columns, pred_sizes = _ranked(pred_labels)
    cells = np.sort(rows * len(pred_sizes) + columns)  # at most N * N, which int64 holds
    first = np.flatnonzero(np.concatenate([[True], cells[1:] != cells[:-1]]))
    counts = np.diff(first, append=len(cells))
    row, column = np.divmod(cells[first], len(pred_sizes))
    return _Table(row, column, counts, true_sizes, pred_sizes)


def _ranked(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels as ranks 0, 1, ... among those that occur, and how often each does."""
    low, span = int(labels.min()), int(labels.max()) - int(labels.min())
    if span < 4 * len(labels):  # counting is faster than sorting where the range allows it
        sizes = np.bincount(labels - low)
        occurs = sizes > 0
        return (np.cumsum(occurs) - 1)[labels - low], sizes[occurs]
    _, ranks, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    return ranks.astype(np.int64), sizes


def _labels(name: str, labels: Labels) -> NDArray[np.int64]:
    array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must be [N] labels with N >= 1, got shape {array.shape}")
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers, got {array.dtype}")
    if array.dtype == np.uint64 and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name} must fit into int64, got {array.max()}")
    return array.astype(np.int64, copy=False)


def _same_length(true: NDArray[np.int64], pred: NDArray[np.int64]) -> None:
    if len(true) != len(pred):
        raise ValueError(f"pred must have as many labels as true ({len(true)}), got {len(pred)}")


def _pairs(sizes: NDArray[np.int64]) -> int:
    return int((sizes * (sizes - 1)).sum())


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _entropy(shares: NDArray[np.float64]) -> float:
    return float(-(shares * np.log(shares)).sum())


def _scores(precision: float, recall: float) -> ClusteringScores:
    total = precision + recall
    return ClusteringScores(precision, recall, 2 * precision * recall / total if total else 0.0)
