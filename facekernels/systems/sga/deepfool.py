"""The first universal perturbation: sums of DeepFool steps, projected. A peer for comparison."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from facekernels.systems.sga.evaluate import perturb, to_unit


class DeepFoolFit(NamedTuple):
    """A perturbation and what it cost."""

    delta: Tensor
    """``[C, H, W]``."""
    gradients: int
    """Image gradients: one for each image and candidate class of each DeepFool iteration."""


def fit_deepfool(
    model: nn.Module,
    images: Tensor,
    *,
    gradients: int,
    epsilon: float = 10 / 255,
    batch_size: int = 10,
    candidates: int = 10,
    iterations: int = 10,
    overshoot: float = 0.02,
    seed: int = 0,
) -> DeepFoolFit:
    """Fool the images that are not fooled yet, one batch after another, until the budget is spent.

    With ``batch_size=1`` this is Algorithm 1 of the paper for the L-infinity norm. In larger
    batches the minimal steps of all unfooled images are found from the same delta and added before
    the projection: many times faster, and not the same result, because an image no longer sees the
    step of the one before it. The paper stops at a target fooling rate; here the stop is a budget
    of gradients, so that methods can be compared, or every image being fooled.

    Args:
        model: images in [0, 1] to logits; in evaluation mode, parameters frozen.
        images: ``[N, C, H, W]`` uint8 or float in [0, 1].
        gradients: budget, counted as in `DeepFoolFit`; the last batch may pass it.
        epsilon: bound of ``|delta|``.
        batch_size: images whose steps are added up.
        candidates: classes looked at, those with the highest logits.
        iterations: DeepFool iterations for one image at most.
        overshoot: factor by which a minimal step is lengthened.
        seed: of the order of images.

    Source: Moosavi-Dezfooli et al., Universal adversarial perturbations, CVPR 2017; DeepFool,
    CVPR 2016, Algorithm 2.
    """
    generator = torch.Generator().manual_seed(seed)
    delta = torch.zeros(images.shape[1:])
    spent = 0
    while spent < gradients:
        before = spent
        for rows in torch.randperm(len(images), generator=generator).split(batch_size):
            with torch.no_grad():
                labels = model(to_unit(images[rows])).argmax(1)
                left = model(perturb(images[rows], delta)).argmax(1) == labels
            if left.any():
                x = perturb(images[rows[left]], delta)
                steps, cost = _deepfool(model, x, labels[left], candidates, iterations)
                delta = (delta + (1 + overshoot) * steps.sum(0)).clamp(-epsilon, epsilon)
                spent += cost
            if spent >= gradients:
                break
        if spent == before:  # all fooled
            break
    return DeepFoolFit(delta, spent)


def _deepfool(
    model: nn.Module, x: Tensor, labels: Tensor, candidates: int, iterations: int
) -> tuple[Tensor, int]:
    """Small L2 steps ``[b, C, H, W]`` across the nearest boundary, and the gradients they took."""
    total = torch.zeros_like(x)
    with torch.no_grad():
        logits = model(x)
    candidates = min(candidates, logits.shape[1])
    others = logits.scatter(1, labels[:, None], -torch.inf).topk(candidates - 1).indices
    active = torch.arange(len(x))
    cost = 0
    for _ in range(iterations):
        point = (x[active] + total[active]).requires_grad_()
        logits = model(point)
        own = logits.gather(1, labels[active, None])
        margins = logits.gather(1, others[active]) - own
        still = (margins.detach() < 0).all(1)
        if not still.any():
            break
        normals = torch.stack(
            [
                torch.autograd.grad(margins[:, c].sum(), point, retain_graph=True)[0]
                for c in range(margins.shape[1])
            ],
            1,
        )
        cost += len(active) * candidates
        squared = normals.flatten(2).square().sum(2).clamp_min(1e-12)
        distance = margins.detach().abs() / squared.sqrt()
        nearest = distance.argmin(1, keepdim=True)
        scale = ((margins.detach().abs() + 1e-4) / squared).gather(1, nearest)
        normal = normals[torch.arange(len(active)), nearest[:, 0]]
        total[active[still]] += (scale[:, :, None, None] * normal)[still]
        active = active[still]
    return total, cost
