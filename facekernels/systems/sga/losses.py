"""What a universal perturbation raises: losses ``loss(logits, reference) -> scalar``.

Ascending a loss always is the attack, targeted or not. `reference` is what the perturbed logits
``[b, K]`` are judged against: labels ``[b]`` int64 (the model's own clean argmax, or the target),
or the clean logits ``[b, K]`` for a loss whose attribute `uses_clean_logits` is true.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from facekernels import _check

Loss = Callable[[Tensor, Tensor], Tensor]


class ClampedCrossEntropy:
    """``mean_i min(CE_i, beta)``: a sample that is fooled well enough gives no gradient any more.

    Targeted, ``-mean_i CE_i`` of the target. There `beta` plays no part: cross-entropy with the
    target loses its gradient by itself where the target is reached, and clamping it far from the
    target would stop the attack before it starts.

    Args:
        beta: bound of one sample's cross-entropy, above 0; infinity for none.
        targeted: whether labels are where the predictions shall go.

    Source: SGA (Liu et al., arXiv 2308.06015); beta = 9 is the released code's. The targeted form
    is the usual one, not the paper's.
    """

    uses_clean_logits = False

    def __init__(self, beta: float = 9.0, targeted: bool = False) -> None:
        if not beta > 0:
            raise ValueError(f"beta must be above 0, got {beta}")
        self.beta = beta
        self.targeted = targeted

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.targeted:
            return -F.cross_entropy(logits, labels)
        return F.cross_entropy(logits, labels, reduction="none").clamp(max=self.beta).mean()


class LogitLoss:
    """``-mean_i logit_i[y_i]``; targeted, ``mean_i logit_i[target]``.

    Source: the released code of SGA (its command line's default, not the published setting).
    """

    uses_clean_logits = False

    def __init__(self, targeted: bool = False) -> None:
        self.targeted = targeted

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        mean = logits.gather(1, labels[:, None]).mean()
        return mean if self.targeted else -mean


class CosineLoss:
    """``-mean_i cos(logits_i, clean logits_i)``; targeted, ``mean_i cos(logits_i, one-hot)``.

    Source: Cos-UAP (Zhang et al., "Data-free universal adversarial perturbation and black-box
    attack", ICCV 2021). The targeted form is this package's own.
    """

    def __init__(self, targeted: bool = False) -> None:
        self.targeted = targeted
        self.uses_clean_logits = not targeted

    def __call__(self, logits: Tensor, reference: Tensor) -> Tensor:
        if self.targeted:
            reference = F.one_hot(reference, logits.shape[1]).to(logits.dtype)
        mean = torch.cosine_similarity(logits, reference, dim=1).mean()
        return mean if self.targeted else -mean


LOSSES = ("cross_entropy", "logit", "cosine")


def make_loss(name: str, *, beta: float = 9.0, targeted: bool = False) -> Loss:
    """The loss called `name`, one of `LOSSES`; `beta` is the cross-entropy's.

    Raises:
        ValueError: another name, or beta <= 0.
    """
    _check.one_of("loss", name, LOSSES)
    if name == "cross_entropy":
        return ClampedCrossEntropy(beta, targeted)
    return LogitLoss(targeted) if name == "logit" else CosineLoss(targeted)
