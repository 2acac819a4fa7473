"""Losses of universal perturbations: values, gradients, and that ascending them is the attack."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from facekernels.systems.sga.losses import ClampedCrossEntropy, make_loss

LOGITS = torch.tensor([[12.0, 0.0, 0.0], [0.0, 12.0, 0.0], [1.0, 2.0, 3.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 0, 1])


def test_clamped_cross_entropy_by_hand() -> None:
    far = math.log(math.exp(12) + 2)  # CE of the second row: 12.00001, above beta
    near = far - 12
    third = math.log(math.exp(1) + math.exp(2) + math.exp(3)) - 2
    value = make_loss("cross_entropy", beta=9.0)(LOGITS, LABELS)
    assert value.item() == pytest.approx((near + 9 + third) / 3, abs=1e-12)
    free = make_loss("cross_entropy", beta=math.inf)(LOGITS, LABELS)
    assert free.item() == pytest.approx((near + far + third) / 3, abs=1e-12)


def test_a_sample_above_beta_gives_no_gradient() -> None:
    logits = LOGITS.clone().requires_grad_()
    (grad,) = torch.autograd.grad(ClampedCrossEntropy(9.0)(logits, LABELS), logits)
    assert torch.equal(grad[1], torch.zeros(3, dtype=torch.float64))
    expected = LOGITS[2].softmax(0)
    expected[1] -= 1
    assert torch.allclose(grad[2], expected / 3, atol=1e-12)


def test_logit_and_cosine_by_hand() -> None:
    assert make_loss("logit")(LOGITS, LABELS).item() == pytest.approx(-(12 + 0 + 2) / 3)
    assert make_loss("logit", targeted=True)(LOGITS, LABELS).item() == pytest.approx(14 / 3)
    clean = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 0, 2.0]], dtype=torch.float64)
    cosine = (1 + 0 + 3 / math.sqrt(14)) / 3
    assert make_loss("cosine")(LOGITS, clean).item() == pytest.approx(-cosine)
    targeted = (1 + 0 + 2 / math.sqrt(14)) / 3
    assert make_loss("cosine", targeted=True)(LOGITS, LABELS).item() == pytest.approx(targeted)


@pytest.mark.parametrize("name", ["cross_entropy", "logit", "cosine"])
@pytest.mark.parametrize("targeted", [False, True])
def test_ascending_is_the_attack(name: str, targeted: bool) -> None:
    """A small step up the gradient lowers (targeted: raises) the probability of the label."""
    start = torch.tensor([[1.0, 0.5, -0.2]], dtype=torch.float64)
    label = torch.tensor([1 if targeted else 0])
    loss = make_loss(name, targeted=targeted)
    reference: Tensor = label
    if name == "cosine" and not targeted:
        reference = torch.tensor([[3.0, 0.1, 0.0]], dtype=torch.float64)
    logits = start.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(logits, reference), logits)
    change = (start + 0.01 * grad).softmax(1)[0, label] - start.softmax(1)[0, label]
    assert change.item() > 0 if targeted else change.item() < 0


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"loss must be one of 'cross_entropy', .*, got 'hinge'"):
        make_loss("hinge")
    with pytest.raises(ValueError, match="beta must be above 0, got 0"):
        make_loss("cross_entropy", beta=0)
