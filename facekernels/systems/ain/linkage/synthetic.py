"""Features of made-up identities, for tests and comparisons where the truth is known."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def synthetic_identities(
    identities: int,
    per_identity: int,
    features: int = 64,
    *,
    noise: tuple[float, float] = (0.7, 1.5),
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Unit vectors around one centre per identity, some images closer to it than others.

    An image is ``normalize(center + sigma * z / sqrt(D))``, z standard normal, with a sigma of its
    own, uniform in `noise`. With the default every other of 40 neighbours of 20 images is wrong.

    Args:
        identities: at least 1.
        per_identity: images of each.
        features: D.
        noise: lowest and highest sigma. (0.8, 2.4) makes neighbours much harder.
        seed: of everything.

    Returns:
        ``[identities * per_identity, D]`` float32 in random order, and ``[...]`` int64 labels.
    """
    gen = torch.Generator().manual_seed(seed)
    centers = F.normalize(torch.randn(identities, features, generator=gen))
    labels = torch.arange(identities).repeat_interleave(per_identity)
    labels = labels[torch.randperm(len(labels), generator=gen)]
    low, high = noise
    sigma = low + (high - low) * torch.rand(len(labels), 1, generator=gen)
    x = centers[labels] + sigma * torch.randn(len(labels), features, generator=gen) / features**0.5
    return F.normalize(x), labels
