"""Verification against a direct transcription of the protocol; age errors by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.model_selection import KFold

from facekernels.metrics import (
    epsilon_error,
    mean_absolute_error,
    pair_distances,
    tar_at_far,
    verify,
)


def _by_scikit_learn(distances: np.ndarray, same: np.ndarray) -> tuple[list[float], list[float]]:
    thresholds = np.arange(0, 4, 0.01)
    accuracies, chosen = [], []
    for train, test in KFold(10).split(distances):
        scores = [((distances[train] < t) == same[train]).mean() for t in thresholds]
        best = thresholds[int(np.argmax(scores))]
        chosen.append(best)
        accuracies.append(((distances[test] < best) == same[test]).mean())
    return accuracies, chosen


def test_ten_folds_against_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    same = torch.rand(213, generator=generator) < 0.5
    distances = torch.rand(213, generator=generator, dtype=torch.float64) * 2
    distances[same] *= 0.6
    found = verify(distances, same)
    accuracies, chosen = _by_scikit_learn(distances.numpy(), same.numpy())
    assert found.accuracy == pytest.approx(np.mean(accuracies))
    assert found.std == pytest.approx(np.std(accuracies))
    assert found.thresholds == pytest.approx(chosen)
    assert 0.6 < found.accuracy < 1


def test_distances_are_of_directions() -> None:
    first = torch.tensor([[3.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    second = torch.tensor([[0.0, 5.0], [2.0, 2.0], [0.0, -1.0]])
    torch.testing.assert_close(
        pair_distances(first, second), torch.tensor([2.0, 0.0, 4.0]).double()
    )


def test_tar_at_far_counts() -> None:
    scores = torch.tensor([0.9, 0.8, 0.3, 0.7, 0.5, 0.4, 0.2])
    same = torch.tensor([1, 1, 1, 0, 0, 0, 0]).bool()
    # Impostors 0.7, 0.5, 0.4, 0.2: at 1/4 the threshold is 0.5, at 3/4 it is 0.2.
    assert tar_at_far(scores, same, [0, 0.25, 0.75, 1]) == pytest.approx([2 / 3, 2 / 3, 1, 1])
    assert tar_at_far(scores, same, [1e-6]) == pytest.approx([2 / 3])


def test_age_errors() -> None:
    assert mean_absolute_error(torch.tensor([30.0, 20.0]), torch.tensor([33.0, 19.0])) == 2
    one = epsilon_error(torch.tensor([30.0]), torch.tensor([33.0]), torch.tensor([3.0]))
    assert one == pytest.approx(0.393469, abs=1e-6)
    assert one == pytest.approx(1 - math.exp(-0.5))


def test_bad_input_is_named() -> None:
    distances, same = torch.zeros(5), torch.ones(5).bool()
    with pytest.raises(ValueError, match=r"folds must lie in \[2, 5\], got 10"):
        verify(distances, same)
    with pytest.raises(ValueError, match=r"distances and same must be \[N\]"):
        verify(distances[None], same)
    with pytest.raises(ValueError, match="genuine and impostor pairs, got 5 and 0"):
        tar_at_far(distances, same, [0.1])
    with pytest.raises(ValueError, match=r"fars must lie in \[0, 1\], got 2"):
        tar_at_far(distances, torch.arange(5) > 2, [2])
    with pytest.raises(ValueError, match="std must be positive, got 0"):
        epsilon_error(distances, distances, distances)
