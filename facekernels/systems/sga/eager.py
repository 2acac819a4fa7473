"""SGA and SPGD in plain PyTorch: the algorithm on one page, and the peer of the fused trainer."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from facekernels.systems.sga.evaluate import perturb


class EagerFit(NamedTuple):
    """A perturbation and what it cost."""

    delta: Tensor
    """``[C, H, W]``."""
    gradients: int
    """Image gradients: images that went forward and backward, each counted every time."""
    updates: int
    """Sign steps of delta (of the inner copy too, for SGA)."""


def fit_eager(
    model: nn.Module,
    images: Tensor,
    *,
    method: str = "sga",
    epochs: int = 20,
    large_batch: int = 250,
    small_batch: int = 10,
    k: int = 4,
    epsilon: float = 10 / 255,
    step: float | None = None,
    beta: float = 9.0,
    seed: int = 0,
) -> EagerFit:
    """Ascend the clamped cross-entropy of the model's own clean predictions.

    ``"spgd"``: one sign step along the mean gradient of each large batch. ``"sga"``: from each
    large batch n, ``k * n // small_batch`` small batches are drawn (each without replacement); an
    inner copy of delta takes a sign step along the gradient of each, so that the next is taken
    elsewhere; delta then takes one sign step along the sum of those gradients. The inner copy is
    dropped.

    Args:
        model: images in [0, 1] to logits; in evaluation mode, parameters frozen.
        images: ``[N, C, H, W]`` uint8 or float in [0, 1].
        method: ``"sga"`` or ``"spgd"``.
        epochs: passes over the images.
        large_batch: images between two updates of delta; the last batch may be smaller.
        small_batch: images of one inner gradient (SGA).
        k: how often an image is used per epoch, on average (SGA).
        epsilon: bound of ``|delta|``.
        step: length of all sign steps, default ``epsilon / 10``.
        beta: an image whose cross-entropy passes it counts as fooled and has no gradient.
        seed: of the order of images and of the small batches.

    Source: Liu et al., Enhancing Generalization of Universal Adversarial Perturbation through
    Gradient Aggregation, ICCV 2023.
    """
    if method not in ("sga", "spgd"):
        raise ValueError(f"method must be 'sga' or 'spgd', got {method!r}")
    step = epsilon / 10 if step is None else step
    generator = torch.Generator().manual_seed(seed)
    delta = torch.zeros(images.shape[1:])
    gradients = updates = 0

    def moved(start: Tensor, gradient: Tensor) -> Tensor:
        return (start + step * gradient.sign()).clamp(-epsilon, epsilon)

    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=generator).split(large_batch):
            batch = images[rows]
            with torch.no_grad():
                labels = model(perturb(batch, torch.zeros_like(delta))).argmax(1)
            if method == "spgd":
                delta = moved(delta, _gradient(model, batch, labels, delta, beta))
                gradients, updates = gradients + len(batch), updates + 1
                continue
            small = min(small_batch, len(batch))
            inner, total = delta, torch.zeros_like(delta)
            for _ in range(k * len(batch) // small):
                few = torch.randperm(len(batch), generator=generator)[:small]
                gradient = _gradient(model, batch[few], labels[few], inner, beta)
                inner, total = moved(inner, gradient), total + gradient
                gradients, updates = gradients + small, updates + 1
            delta = moved(delta, total)
            updates += 1
    return EagerFit(delta, gradients, updates)


def _gradient(
    model: nn.Module, images: Tensor, labels: Tensor, delta: Tensor, beta: float
) -> Tensor:
    delta = delta.detach().requires_grad_()
    losses = functional.cross_entropy(model(perturb(images, delta)), labels, reduction="none")
    (gradient,) = torch.autograd.grad(losses.clamp(max=beta).mean(), delta)
    return gradient
