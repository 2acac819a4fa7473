"""Confusion matrices and accuracies, against scikit-learn and by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from sklearn import metrics as sklearn_metrics

from facekernels.metrics import (
    accuracy,
    confusion_matrix,
    mean_accuracy,
    recalls,
    save_confusion_picture,
    top_k_accuracy,
)


def test_against_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (300,), generator=generator)
    predicted = torch.randint(0, 5, (300,), generator=generator)
    matrix = confusion_matrix(labels, predicted, 6)
    expected = sklearn_metrics.confusion_matrix(labels, predicted, labels=range(6))
    assert matrix.tolist() == expected.tolist()
    assert accuracy(matrix) == sklearn_metrics.accuracy_score(labels, predicted)
    balanced = sklearn_metrics.balanced_accuracy_score(labels, predicted)
    assert mean_accuracy(matrix) == pytest.approx(balanced)


def test_class_without_images_has_no_recall() -> None:
    matrix = confusion_matrix(torch.tensor([0, 0, 2, 2]), torch.tensor([0, 1, 2, 2]), 3)
    found = recalls(matrix).tolist()
    assert found[0] == 0.5
    assert math.isnan(found[1])
    assert mean_accuracy(matrix) == 0.75
    assert math.isnan(accuracy(torch.zeros(2, 2, dtype=torch.int64)))


def test_top_k_breaks_ties_towards_the_lower_class() -> None:
    scores = torch.tensor([[0.1, 0.5, 0.5, 0.5], [0.9, 0.0, 0.0, 0.0]])
    assert top_k_accuracy(scores, torch.tensor([3, 0]), 2) == 0.5
    assert top_k_accuracy(scores, torch.tensor([3, 0]), 3) == 1.0
    assert top_k_accuracy(scores, torch.tensor([2, 1]), 2) == 1.0


def test_values_outside_are_named() -> None:
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 3\), got 3 in row 1"):
        confusion_matrix(torch.tensor([0, 3]), torch.tensor([0, 0]), 3)
    with pytest.raises(ValueError, match=r"predicted must lie in \[0, 3\), got -1 in row 0"):
        confusion_matrix(torch.tensor([0, 2]), torch.tensor([-1, 0]), 3)
    with pytest.raises(ValueError, match=r"must be \[N\]"):
        confusion_matrix(torch.zeros(2, 1).long(), torch.zeros(2).long(), 3)


def test_picture_is_drawn(tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "confusion.png"
    save_confusion_picture(path, torch.tensor([[9, 1], [0, 0]]), ["often", "never"])
    with Image.open(path) as image:
        assert len(image.convert("L").getcolors(1 << 16)) > 20
