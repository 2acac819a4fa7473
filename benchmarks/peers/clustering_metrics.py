"""BCubed and pairwise scores of labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.peers.common import Array


def _unique_counts(true: Array, pred: Array) -> tuple[Any, ...]:
    """Pairs of labels that occur, how often, and sizes of identities and clusters."""
    pairs, counts = np.unique(np.stack((true, pred), 1), axis=0, return_counts=True)
    return pairs, counts, np.unique(true, return_counts=True), np.unique(pred, return_counts=True)


def unique_bcubed_f(true: Array, pred: Array) -> tuple[float, float, float]:
    """Precision, recall and F as they are written with np.unique."""
    pairs, counts, (ids, sizes), (clusters, found) = _unique_counts(true, pred)
    squares = counts.astype(np.float64) ** 2
    p = (squares / found[np.searchsorted(clusters, pairs[:, 1])]).sum() / len(true)
    r = (squares / sizes[np.searchsorted(ids, pairs[:, 0])]).sum() / len(true)
    return p, r, 2 * p * r / (p + r)


def unique_pairwise_f(true: Array, pred: Array) -> tuple[float, float, float]:
    """Precision, recall and F as they are written with np.unique."""
    _, counts, (_, sizes), (_, found) = _unique_counts(true, pred)
    together, of_clusters, of_ids = ((n * (n - 1)).sum() for n in (counts, found, sizes))
    p, r = together / of_clusters, together / of_ids
    return p, r, 2 * p * r / (p + r)
