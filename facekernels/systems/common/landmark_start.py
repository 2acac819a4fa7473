"""A backbone that has learnt to find landmarks: where the comparisons' trainings start.

The published trainings start from networks that know faces already (recognition). Finding landmarks
is what a small network learns of faces in a minute.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facekernels.data import faces
from facekernels.systems.common.schedule import Optimization


def landmark_start(
    make: Callable[[], nn.Module],
    image_size: int,
    settings: faces.Settings,
    seed: int,
    *,
    images: int,
    steps: int,
    rate: float,
    batch_size: int = 64,
) -> dict[str, Tensor]:
    """Train a backbone on made-up faces that no comparison uses.

    Args:
        make: gives the backbone, with `forward_features` and `num_features`. It is called after
            the seed is set: whoever asks with the same arguments gets the same weights.
        image_size: side of the images, pixels.
        settings: distribution of the faces.
        seed: of weights, faces and order.
        images: number of different faces.
        steps: optimizer steps (AdamW, warm-up, cosine).
        rate: learning rate.
        batch_size: faces per step.

    Returns:
        The backbone's state dict.
    """
    lightning.seed_everything(seed, verbose=False)
    backbone = make()
    made = faces.make(images, image_size, 10_000 + seed, settings, uint8=True)
    points = made.landmarks.flatten(1)
    points = (points - points.mean(0)) / points.std(0)
    width: int = backbone.num_features  # type: ignore[assignment]
    head = nn.Linear(width, points.shape[1])
    recipe = Optimization(lr=rate, weight_decay=0.01, warmup_steps=20, warmup_jump=False)
    parameters = [*backbone.parameters(), *head.parameters()]
    made_by = recipe.make([{"params": parameters}], steps, batch_size)
    optimizer, schedule = made_by["optimizer"], made_by["lr_scheduler"]["scheduler"]
    passes = math.ceil(steps * batch_size / images)
    order = torch.cat([torch.randperm(images) for _ in range(passes)])
    for rows in order.split(batch_size)[:steps]:
        x = (made.images[rows].float() / 127.5 - 1).to(memory_format=torch.channels_last)
        features: Tensor = backbone.forward_features(x)  # type: ignore[operator]
        loss = F.mse_loss(head(features.mean((2, 3))), points[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return dict(backbone.state_dict())
