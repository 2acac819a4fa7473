"""The peers' losses against their formulas, and which loss a name means."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from facekernels.data.labels import EXPRESSIONS
from facekernels.systems.balanced_fer.losses import (
    LOSSES,
    FocalLoss,
    LogitAdjustedLoss,
    classification_loss,
)

# RAF-DB's training classes.
COUNTS = torch.tensor([1290, 281, 717, 4772, 1982, 705, 2524])
OPTIONS = {"epsilon": 0.3, "weights": "mek", "gamma": 2.0, "tau": 1.0}


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 7, generator=generator, dtype=torch.float64) * 3
    return logits, torch.arange(12) % 7


def test_focal_loss(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = batch
    p = logits.softmax(1)[torch.arange(12), labels]
    torch.testing.assert_close(FocalLoss(2.0)(logits, labels), ((1 - p) ** 2 * -p.log()).mean())
    torch.testing.assert_close(FocalLoss(0.0)(logits, labels), F.cross_entropy(logits, labels))


def test_logit_adjustment(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = batch
    share = COUNTS / COUNTS.sum()
    expected = F.cross_entropy(logits + 0.5 * share.log(), labels)
    found = LogitAdjustedLoss(COUNTS, 0.5)(logits, labels)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_every_name(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = (batch[0].float(), batch[1])
    found = {n: classification_loss(n, COUNTS, **OPTIONS)(logits, labels).item() for n in LOSSES}
    assert found["cross_entropy"] == pytest.approx(F.cross_entropy(logits, labels).item())
    weights = 1 / COUNTS
    weights = weights / weights.mean()
    assert found["weighted"] == pytest.approx(F.cross_entropy(logits, labels, weights).item())
    assert len({round(v, 6) for v in found.values()}) == len(LOSSES)
    with pytest.raises(ValueError, match="classification must be one of cross_entropy, weighted"):
        classification_loss("hinge", COUNTS, **OPTIONS)


def test_a_class_without_images_is_named() -> None:
    counts = COUNTS.clone()
    counts[1] = 0
    with pytest.raises(ValueError, match=r"at least 1 for every class, got 0 of class 1 \(Fear\)"):
        classification_loss("rsl", counts, **OPTIONS, names=EXPRESSIONS)
