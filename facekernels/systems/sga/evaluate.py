"""How often a universal perturbation changes what a model says."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def fooling_ratio(model: nn.Module, images: Tensor, delta: Tensor, batch_size: int = 250) -> float:
    """Share of images whose argmax differs between clean and perturbed; labels play no part.

    Args:
        model: normalised images to logits ``[b, classes]``, used in the mode that it is in.
        images: ``[N, C, H, W]``, uint8 or float in [0, 1]; the last batch may be smaller.
        delta: ``[C, H, W]`` float, added in [0, 1] units before clamping.
        batch_size: images per forward pass, at least 1.

    Raises:
        ValueError: no images, delta of another shape, or a batch size below 1.
    """
    if images.ndim != 4 or len(images) == 0:
        raise ValueError(f"images must be [N >= 1, C, H, W], got shape {tuple(images.shape)}")
    if delta.shape != images.shape[1:]:
        raise ValueError(f"delta must be {tuple(images.shape[1:])}, got {tuple(delta.shape)}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    changed = 0
    for batch in images.split(batch_size):
        clean = batch.float() / 255 if batch.dtype is torch.uint8 else batch
        before = model(clean).argmax(1)
        changed += int((model((clean + delta).clamp(0, 1)).argmax(1) != before).sum())
    return changed / len(images)
