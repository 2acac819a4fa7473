"""Margin softmax (CosFace); embeddings [B, D], class weights [V, D], labels [B] -> mean loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def margin_eager(e: Tensor, w: Tensor, labels: Tensor, s: float, margin: float) -> Tensor:
    """The logits, and the margin at one column of each row."""
    cosines = (F.normalize(e) @ F.normalize(w).T).clamp(-1, 1)
    column = labels.unsqueeze(1)
    target = cosines.gather(1, column) - margin
    return F.cross_entropy(s * cosines.scatter(1, column, target), labels)


def margin_published(e: Tensor, w: Tensor, labels: Tensor, s: float, margin: float) -> Tensor:
    """Partial FC as released: maximum, exponential, sum and quotient one after the other, and a
    backward pass of its own.
    """
    logits = F.linear(F.normalize(e), F.normalize(w)).clamp(-1, 1)
    rows = torch.arange(len(labels), device=labels.device)
    logits[rows, labels] = logits[rows, labels] - margin
    loss: Tensor = _PublishedCrossEntropy.apply(logits * s, labels)
    return loss


class _PublishedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        logits = logits - logits.amax(1, keepdim=True)
        probabilities = logits.exp_()
        probabilities /= probabilities.sum(1, keepdim=True)
        ctx.save_for_backward(probabilities, labels)
        return -probabilities.gather(1, labels.unsqueeze(1)).clamp_min(1e-30).log().mean()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        probabilities, labels = ctx.saved_tensors
        one_hot = torch.zeros_like(probabilities).scatter_(1, labels.unsqueeze(1), 1)
        return (probabilities - one_hot).div_(len(labels)) * grad, None


def margin_chunked(
    e: Tensor, w: Tensor, labels: Tensor, s: float, margin: float, chunk: int = 4096
) -> Tensor:
    """No more than `chunk` columns of logits at a time, computed again in the backward pass."""
    from torch.utils.checkpoint import checkpoint

    unit = F.normalize(e)
    sums = [
        checkpoint(_chunk_sum, unit, w[first : first + chunk], labels - first, s, margin,
                   use_reentrant=False)
        for first in range(0, len(w), chunk)
    ]  # fmt: skip
    target = (unit * F.normalize(w[labels])).sum(1).clamp(-1, 1) - margin
    return (torch.stack(sums).logsumexp(0) - s * target).mean()


def _chunk_sum(unit: Tensor, w: Tensor, labels: Tensor, s: float, margin: float) -> Tensor:
    cosines = (unit @ F.normalize(w).T).clamp(-1, 1)
    inside = (labels >= 0) & (labels < len(w))
    column = labels.where(inside, 0).unsqueeze(1)
    shift = torch.zeros_like(cosines).scatter_(1, column, (margin * inside).unsqueeze(1).to(w))
    return (s * (cosines - shift)).logsumexp(1)
