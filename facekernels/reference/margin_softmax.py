"""Plain PyTorch of the `margin_softmax` family. It makes the whole matrix of cosines."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

Margins = tuple[float, float, float]


def cosine_sums(
    embeddings: Tensor, class_weights: Tensor, labels: Tensor, s: float
) -> tuple[Tensor, Tensor]:
    """[B, D], [V, D], [B] -> log of the sum of exp(s cos) over the other classes, and the target's
    cosine (0 for label -1, NaN for another label out of range): [B] each.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        cosines = (F.normalize(embeddings) @ F.normalize(class_weights).mT).clamp(-1, 1)
    classes = torch.arange(class_weights.shape[0], device=labels.device)
    is_target = labels.unsqueeze(1) == classes
    # Not -inf: where there is no other class, its sum has no second derivative.
    others = (s * cosines).masked_fill(is_target, torch.finfo(cosines.dtype).min)
    inside = is_target.any(1)
    target = cosines.where(is_target, 0).sum(1)
    return others.logsumexp(1), target.masked_fill(~inside & (labels != -1), torch.nan)


def margin_of(cosine: Tensor, margins: Margins) -> Tensor:
    """The target's cosine after the margins; its derivative at -1 and 1 leaves the sine out."""
    m1, m2, m3 = margins
    inside = cosine.abs() < 1
    if m1 != 1:
        inner = torch.acos(cosine.where(inside, 0))
        end = torch.where(cosine < 0, math.pi, 0.0).to(cosine.dtype)
        angle = torch.where(inside, inner, torch.where(cosine.isnan(), cosine, end))
        return torch.cos(m1 * angle + m2) - m3
    if m2 == 0:
        return cosine - m3
    square = (1 - cosine.square()).where(inside, 1.0)
    sine = square.sqrt().where(inside, 0.0)
    shifted = cosine * math.cos(m2) - sine * math.sin(m2)
    beyond = cosine - m2 * math.sin(math.pi - m2)  # the angle plus m2 is above pi
    return torch.where(cosine > math.cos(math.pi - m2), shifted, beyond) - m3


def row_losses(
    lse: Tensor, target: Tensor, has_target: Tensor, s: float, margins: Margins, gradient: str
) -> Tensor:
    """-log softmax of the target; 0 where `has_target` is false."""
    with_margin = margin_of(target.detach() if gradient == "straight_through" else target, margins)
    if gradient == "straight_through":
        with_margin = with_margin + (target - target.detach())
    # log(1 + exp(lse - target)), exact also where the loss is tiny.
    difference = lse.clamp_min(torch.finfo(lse.dtype).min) - s * with_margin
    return (-F.logsigmoid(-difference)).where(has_target, 0.0)


def reduced(losses: Tensor, reduction: str) -> Tensor:
    """The mean or the sum of [B], or itself."""
    if reduction == "none":
        return losses
    return losses.mean() if reduction == "mean" else losses.sum()


def margin_cross_entropy(
    embeddings: Tensor,
    class_weights: Tensor,
    labels: Tensor,
    s: float = 64.0,
    margins: Margins = (1.0, 0.0, 0.4),
    *,
    sample_index: Tensor | None = None,
    gradient: str = "exact",
    reduction: str = "mean",
) -> Tensor:
    """Softmax cross entropy of s cos, with margins at the target; in float32, or float64."""
    wide = torch.float64 if embeddings.dtype is torch.float64 else torch.float32
    embeddings, class_weights = embeddings.to(wide), class_weights.to(wide)
    if sample_index is not None:
        class_weights = class_weights.index_select(0, sample_index)
        labels = sampled_labels(labels, sample_index)
    lse, target = cosine_sums(embeddings, class_weights, labels, s)
    return reduced(row_losses(lse, target, labels != -1, s, margins, gradient), reduction)


def sampled_labels(labels: Tensor, sample_index: Tensor) -> Tensor:
    """Positions of the labels in the sorted `sample_index`; -1 stays, -2 is not among them."""
    if sample_index.shape[0] == 0:
        return torch.where(labels == -1, -1, -2)
    position = torch.searchsorted(sample_index.contiguous(), labels)
    position = position.clamp_max(sample_index.shape[0] - 1)
    position = position.where(sample_index[position] == labels, -2)
    return position.where(labels != -1, -1)
