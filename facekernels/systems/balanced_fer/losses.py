"""What the rebalanced losses are compared with: the usual answers to unequal classes.

The method's own losses are `facekernels.nn.RebalancedSmoothLabelLoss` and
`facekernels.nn.RebalancedAttentionConsistency`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from facekernels.nn import RebalancedSmoothLabelLoss, class_balance_weights

LOSSES = ("cross_entropy", "weighted", "focal", "logit_adjustment", "rsl")
"""Names that `classification_loss` knows."""


class FocalLoss(nn.Module):
    """Mean of (1 - p_y)^gamma (-log p_y).

    Equivalent to::

        nll = F.cross_entropy(logits, labels, reduction="none")
        ((1 - torch.exp(-nll)) ** gamma * nll).mean()

    Source: Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, equation 4.
    """

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        nll = F.cross_entropy(logits, labels, reduction="none")
        # expm1 keeps 1 - p where p is nearly 1.
        return ((-(-nll).expm1()) ** self.gamma * nll).mean()


class LogitAdjustedLoss(nn.Module):
    """Cross entropy of logits to which tau * log(share of the class) is added in training.

    Source: Menon et al., Long-tail Learning via Logit Adjustment, ICLR 2021, equation 10.
    """

    def __init__(self, counts: Tensor, tau: float = 1.0) -> None:
        super().__init__()
        share = counts.double() / counts.sum()
        self.adjustment: Tensor
        self.register_buffer("adjustment", (tau * share.log()).float(), persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits + self.adjustment, labels)


class WeightedCrossEntropy(nn.Module):
    """`torch.nn.CrossEntropyLoss(weight)` whose weights, made from the data, are not saved."""

    def __init__(self, class_weights: Tensor) -> None:
        super().__init__()
        self.class_weights: Tensor
        self.register_buffer("class_weights", class_weights.float(), persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, self.class_weights)


def classification_loss(
    name: str,
    counts: Tensor,
    *,
    epsilon: float,
    weights: str,
    gamma: float,
    tau: float,
    names: Sequence[str] | None = None,
) -> nn.Module:
    """The loss called `name` for training classes of these sizes.

    Args:
        name: one of `LOSSES`.
        counts: ``[K]`` images per class in the training split, each at least 1.
        epsilon: smoothing of ``"rsl"``.
        weights: scheme of `class_balance_weights`, for ``"rsl"``. ``"weighted"`` uses weights of
            mean 1.
        gamma: exponent of ``"focal"``.
        tau: strength of ``"logit_adjustment"``.
        names: of the classes, for the error.

    Raises:
        ValueError: another name, or a class without images.
    """
    balance = class_balance_weights(counts, weights, names=names)
    if name == "cross_entropy":
        return nn.CrossEntropyLoss()
    if name == "weighted":
        return WeightedCrossEntropy(class_balance_weights(counts, "mean1"))
    if name == "focal":
        return FocalLoss(gamma)
    if name == "logit_adjustment":
        return LogitAdjustedLoss(counts, tau)
    if name == "rsl":
        return RebalancedSmoothLabelLoss(balance.float(), epsilon)
    raise ValueError(f"classification must be one of {', '.join(LOSSES)}, got {name!r}")
