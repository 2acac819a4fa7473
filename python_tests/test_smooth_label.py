"""Re-balanced label smoothing and class weights, by the numbers of the released code."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from facekernels.data.labels import EXPRESSIONS
from facekernels.nn import RebalancedSmoothLabelLoss, class_balance_weights

RAF_DB = [1290, 281, 717, 4772, 1982, 705, 2524]
PUBLISHED = [0.95124031, 4.36690391, 1.71143654, 0.25714585, 0.6191221, 1.74056738, 0.48617274]


def test_published_weights() -> None:
    got = class_balance_weights(RAF_DB)
    assert [round(w, 8) for w in got.tolist()] == PUBLISHED
    assert abs(got.sum().item() - 10.132589) < 1e-6


def test_schemes_differ_in_scale_only() -> None:
    counts = torch.tensor(RAF_DB)
    mek, mean1, sklearn = (class_balance_weights(counts, s) for s in ("mek", "mean1", "sklearn"))
    assert torch.allclose(mean1.mean(), torch.ones((), dtype=torch.float64))
    assert torch.allclose(mek / mean1, torch.full((7,), 1.4475, dtype=torch.float64), rtol=1e-4)
    assert torch.allclose(sklearn, sum(RAF_DB) / (7 * counts.double()))
    # scikit-learn's definition: weighted counts are equal, and sum to N.
    assert torch.allclose(sklearn * counts, torch.full((7,), sum(RAF_DB) / 7, dtype=torch.float64))


def test_an_empty_class_is_named() -> None:
    with pytest.raises(ValueError, match=r"at least 1 for every class, got 0 of class 1 \(Fear\)"):
        class_balance_weights([3, 0, 1, 1, 1, 1, 1], names=EXPRESSIONS)
    with pytest.raises(ValueError, match=r"got 0, -2 of class 0, 2$"):
        class_balance_weights([0, 5, -2])
    with pytest.raises(ValueError, match=r"counts must be \[K\], got shape \(1, 2\)"):
        class_balance_weights(torch.ones(1, 2))
    with pytest.raises(ValueError, match="scheme must be one of 'mek'"):
        class_balance_weights([1, 2], "inverse")
    with pytest.raises(ValueError, match=r"names must have one name per count \(2\), got 3"):
        class_balance_weights([1, 2], names=["a", "b", "c"])


@pytest.mark.parametrize(
    ("eps", "label", "row"),
    [
        (0.3, 1, [0.049495, 0.7, 0.089049, 0.01338, 0.032214, 0.090565, 0.025297]),
        (0.3, 3, [0.028897, 0.132659, 0.051991, 0.7, 0.018808, 0.052876, 0.014769]),
        (0.1, 3, [0.009632, 0.04422, 0.01733, 0.9, 0.006269, 0.017625, 0.004923]),
    ],
)
def test_published_targets(eps: float, label: int, row: list[float]) -> None:
    loss = RebalancedSmoothLabelLoss(class_balance_weights(RAF_DB), eps)
    assert torch.allclose(loss.targets[label], torch.tensor(row).double(), atol=6e-7)
    assert torch.allclose(loss.targets.sum(1), torch.ones(7).double())


@pytest.mark.parametrize("eps", [0.0, 0.1, 0.3, 1.0])
def test_uniform_logits_give_the_entropy_of_a_guess(eps: float) -> None:
    loss = RebalancedSmoothLabelLoss(PUBLISHED, eps)
    for label in range(7):
        value = loss(torch.full((1, 7), -3.0), torch.tensor([label])).item()
        assert math.isclose(value, math.log(7), rel_tol=1e-6)


@pytest.mark.parametrize(
    ("eps", "values"),
    [
        (0.3, [5.717427, 4.806063, 4.372534, 3.692897, 3.021367, 2.458905, 1.643839]),
        (0.1, [6.210984, 5.24053, 4.429353, 3.536141, 2.645631, 1.791477, 0.853122]),
        (0.0, [6.457763, 5.457763, 4.457763, 3.457763, 2.457763, 1.457763, 0.457763]),
    ],
)
def test_published_losses(eps: float, values: list[float]) -> None:
    loss = RebalancedSmoothLabelLoss(class_balance_weights(RAF_DB), eps)
    logits = torch.arange(1.0, 8.0).unsqueeze(0)
    got = [loss(logits, torch.tensor([label])).item() for label in range(7)]
    assert torch.allclose(torch.tensor(got), torch.tensor(values), atol=2e-6)


def test_equal_weights_are_smoothing_without_the_label() -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 3, 1, 1, 2])
    got = RebalancedSmoothLabelLoss(torch.ones(4), 0.3)(logits, labels)
    # 0.3 over three others is 0.4 over all four.
    want = functional.cross_entropy(logits, labels, label_smoothing=0.4)
    assert torch.allclose(got, want)
    scaled = RebalancedSmoothLabelLoss(torch.full((4,), 8.0), 0.3)(logits, labels)
    assert torch.equal(got, scaled)


@pytest.mark.parametrize(("eps", "label"), [(0.0, 1), (1.0, 2)])
def test_a_logit_of_minus_infinity_costs_nothing_where_nothing_is_expected(
    eps: float, label: int
) -> None:
    logits = torch.tensor([[0.5, 2.0, -torch.inf]], requires_grad=True)
    labels = torch.tensor([label])
    loss = RebalancedSmoothLabelLoss([1.0, 1.0, 1.0], eps)(logits, labels)
    first, second = logits.detach()[0, :2].log_softmax(0).tolist()
    assert loss.item() == pytest.approx(-(first + second) / 2 if eps else -second)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert RebalancedSmoothLabelLoss([1.0, 1.0, 1.0], 0.1)(logits, labels) == torch.inf


def test_float64_weights_keep_their_digits() -> None:
    weights = torch.tensor([1.0, 1.0 + 1e-12, 3.0], dtype=torch.float64)
    targets = RebalancedSmoothLabelLoss(weights, 0.3).targets
    assert targets.dtype is torch.float64
    assert targets[2, 1] > targets[2, 0]
    for other in (weights.float(), weights.half(), [1, 2, 3], [1.0, 2.0, 3.0]):
        assert RebalancedSmoothLabelLoss(other).targets.dtype is torch.float32


def test_dtypes_gradients_and_state() -> None:
    loss = RebalancedSmoothLabelLoss(PUBLISHED)
    logits = torch.randn(3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 6, 2])
    assert loss(logits.half(), labels).dtype is torch.float32
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), logits.requires_grad_())
    assert not loss.state_dict()
    assert repr(loss) == "RebalancedSmoothLabelLoss(classes=7, eps=0.3)"


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"eps must be in \[0, 1\], got 1.5"):
        RebalancedSmoothLabelLoss(PUBLISHED, 1.5)
    with pytest.raises(ValueError, match=r"class_weights must be \[K\] with K at least 2"):
        RebalancedSmoothLabelLoss([1.0])
    with pytest.raises(ValueError, match="class_weights must be positive and finite"):
        RebalancedSmoothLabelLoss([1.0, 0.0])
    loss = RebalancedSmoothLabelLoss([1.0, 2.0])
    with pytest.raises(ValueError, match=r"logits must be \[B, 2\], got shape \(1, 3\)"):
        loss(torch.ones(1, 3), torch.tensor([0]))
    with pytest.raises(TypeError, match="labels must be int64, got int32"):
        loss(torch.ones(1, 2), torch.tensor([0], dtype=torch.int32))
    with pytest.raises(ValueError, match=r"labels must be \[B\] = \(1\), got shape \(2\)"):
        loss(torch.ones(1, 2), torch.tensor([0, 1]))
