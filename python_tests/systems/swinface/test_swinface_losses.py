"""Age loss by hand, and the batch's losses against the released code's slices."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from facekernels.data.labels import ATTRIBUTES
from facekernels.systems.swinface import TASKS, AgeLoss, MultiTaskLoss
from facekernels.systems.swinface.labels import outputs


@pytest.mark.parametrize(
    ("distance", "step", "expected"),
    [
        (3, 0, 4.5), (3, 25, 3.473367), (3, 50, 2.446735), (3, 100, 0.393469),
        (10, 0, 50), (10, 50, 25.498068), (10, 100, 0.996134),
    ],
)  # fmt: skip
def test_age_loss(distance: float, step: int, expected: float) -> None:
    loss = AgeLoss(100)
    for sign in (1, -1):
        found = loss(torch.tensor([[30.0 + sign * distance]]), torch.tensor([30.0]), step)
        assert found.item() == pytest.approx(expected, rel=1e-6)


def test_rows_without_an_age_do_not_count() -> None:
    predicted = torch.tensor([10.0, 20.0, 30.0], requires_grad=True)
    age = torch.tensor([13.0, torch.nan, 30.0])
    loss = AgeLoss(100)(predicted, age, 0)
    assert loss.item() == pytest.approx(2.25)
    (gradient,) = torch.autograd.grad(loss, predicted)
    assert gradient.tolist() == pytest.approx([-1.5, 0, 0])
    assert AgeLoss(100)(predicted, torch.full((3,), torch.nan), 50).item() == 0


def test_losses_of_the_published_batch() -> None:
    """Ages on the second part, gender on two, attributes on the third, expression on the fourth."""
    generator = torch.Generator().manual_seed(0)
    parts = (5, 4, 3, 6)
    first, second, third, whole = (sum(parts[: i + 1]) for i in range(4))
    answers = {t: torch.randn(whole, outputs(t), generator=generator) for t in TASKS}
    age = torch.full((whole,), torch.nan)
    age[first:second] = torch.rand(parts[1], generator=generator) * 80
    attributes = torch.full((whole, 40), -1, dtype=torch.int8)
    drawn = torch.randint(0, 2, (whole, 40), generator=generator).to(torch.int8)
    gender = ATTRIBUTES.index("Gender")
    attributes[first:third, gender] = drawn[first:third, gender]
    attributes[second:third] = drawn[second:third]
    expression = torch.full((whole,), -1)
    expression[third:] = torch.randint(0, 7, (parts[3],), generator=generator)

    loss = MultiTaskLoss(100, {"Age": 0.5})
    found = loss(answers, {"age": age, "attributes": attributes, "expression": expression}, 30)

    for column, name in enumerate(ATTRIBUTES):
        rows = slice(first if name == "Gender" else second, third)
        expected = F.cross_entropy(answers[name][rows], drawn[rows, column].long())
        torch.testing.assert_close(found[name], expected)
    rows = slice(third, whole)
    torch.testing.assert_close(
        found["Expression"], F.cross_entropy(answers["Expression"][rows], expression[rows])
    )
    torch.testing.assert_close(
        found["Age"], AgeLoss(100)(answers["Age"][first:second], age[first:second], 30)
    )
    assert len(found) == 42
    total = sum(v.item() for v in found.values()) - 0.5 * found["Age"].item()
    assert loss.total(found).item() == pytest.approx(total, rel=1e-5)


def test_a_task_without_labels_costs_nothing() -> None:
    labels = {"age": torch.full((2,), torch.nan), "attributes": torch.full((2, 40), -1),
              "expression": torch.tensor([-1, -1])}  # fmt: skip
    answers = {"Smiling": torch.randn(2, 2, requires_grad=True)}
    found = MultiTaskLoss(10)(answers, labels, 0)
    assert list(found) == ["Smiling"]
    assert found["Smiling"].item() == 0


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"weights\['Age'\] must be at least 0, got -1"):
        MultiTaskLoss(10, {"Age": -1})
    with pytest.raises(ValueError, match=r"weights must be of analysis tasks .*, got Agee"):
        MultiTaskLoss(10, {"Agee": 1.0})
    with pytest.raises(ValueError, match="total_steps and sigma must be positive, got 0 and"):
        AgeLoss(0)
