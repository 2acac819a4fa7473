"""Face verification: are two images the same person?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Verification(NamedTuple):
    """Accuracy over folds."""

    accuracy: float
    """Mean over the folds."""
    std: float
    """Standard deviation over the folds (of the population, as published)."""
    thresholds: tuple[float, ...]
    """The squared distance each fold's training part chose."""


def pair_distances(first: Tensor, second: Tensor) -> Tensor:
    """``[N]`` squared distances in [0, 4] of normalised ``[N, D]`` embeddings."""
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(
            f"first and second must be [N, D], got shapes {tuple(first.shape)} and "
            f"{tuple(second.shape)}"
        )
    difference = F.normalize(first.double()) - F.normalize(second.double())
    return difference.square().sum(1)


def verify(distances: Tensor, same: Tensor, folds: int = 10) -> Verification:
    """The protocol of LFW as InsightFace codes it.

    Each fold, a tenth of the pairs in their order, is judged with the threshold that is best on the
    others: the first among 0, 0.01, ..., 3.99. A pair is "same" if its distance is below.

    Args:
        distances: ``[N]`` squared distances (`pair_distances`).
        same: ``[N]`` bool.
        folds: number of folds, at most N.

    Raises:
        ValueError: shapes differ, or there are fewer pairs than folds.

    Source: Huang et al., Labeled Faces in the Wild, 2007, "unrestricted with labelled outside
    data".
    """
    _check_pairs("distances", distances, same)
    count = len(distances)
    if folds < 2 or count < folds:
        raise ValueError(f"folds must lie in [2, {count}], got {folds}")
    thresholds = torch.arange(400, dtype=torch.float64) / 100
    # [N, T]: the pair is judged right at the threshold.
    right = (distances.double()[:, None] < thresholds) == same.bool()[:, None]
    parts = right.tensor_split(_bounds(count, folds))
    hits = torch.stack([part.sum(0) for part in parts])
    accuracies, chosen = [], []
    for fold, part in enumerate(parts):
        best = int((hits.sum(0) - hits[fold]).argmax())  # the first maximum
        chosen.append(best / 100)
        accuracies.append(float(hits[fold, best]) / len(part))
    values = torch.tensor(accuracies, dtype=torch.float64)
    return Verification(float(values.mean()), float(values.std(correction=0)), tuple(chosen))


def tar_at_far(scores: Tensor, same: Tensor, fars: Sequence[float]) -> list[float]:
    """Share of the genuine pairs accepted where at most this share of impostors is.

    A pair is accepted if its score is above the threshold, which is the smallest score that keeps
    the share of accepted impostors at or below the false accept rate. With too few impostors for a
    rate, none is accepted.

    Args:
        scores: ``[N]``, larger is more similar.
        same: ``[N]`` bool.
        fars: false accept rates in [0, 1].

    Raises:
        ValueError: shapes differ, or pairs of one kind are missing.
    """
    _check_pairs("scores", scores, same)
    genuine, impostor = scores[same.bool()], scores[~same.bool()]
    if not len(genuine) or not len(impostor):
        raise ValueError(
            f"scores must hold genuine and impostor pairs, got {len(genuine)} and {len(impostor)}"
        )
    ordered = impostor.sort(descending=True).values
    found = []
    for far in fars:
        if not 0 <= far <= 1:
            raise ValueError(f"fars must lie in [0, 1], got {far}")
        allowed = int(far * len(ordered) + 1e-9)
        if allowed == len(ordered):
            found.append(1.0)
            continue
        found.append(float((genuine > ordered[allowed]).double().mean()))
    return found


def _bounds(count: int, folds: int) -> list[int]:
    """Ends of all folds but the last; the first ``count % folds`` are one longer (as KFold)."""
    sizes = [count // folds + (i < count % folds) for i in range(folds)]
    return torch.tensor(sizes).cumsum(0).tolist()[:-1]


def _check_pairs(name: str, values: Tensor, same: Tensor) -> None:
    if values.ndim != 1 or values.shape != same.shape:
        raise ValueError(
            f"{name} and same must be [N], got shapes {tuple(values.shape)} and {tuple(same.shape)}"
        )
