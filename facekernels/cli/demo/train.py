"""Trains `FaceScorer` on 160 of the 200 LFW crops; the other 40 are kept to judge it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from facekernels.cli.demo.model import WINDOW, FaceScorer
from facekernels.data import FACELESS, lfw_crops, photograph

_BATCH = 96
_VALIDATION = 20  # of each class
# A face off by this much still scores exp(-1/2) of a centred one. So the scores around a face form
# the Gaussian bump that heatmap decoders expect.
_POSITION_SIGMA = 2.5  # pixels
_SCALE_SIGMA = 0.25  # natural logarithm of the size


class Trained(NamedTuple):
    """The scorer, and how it does on the crops that it has not seen."""

    model: FaceScorer
    crops: Tensor
    """``[40, 1, 25, 25]`` validation crops, faces first."""
    labels: Tensor
    scores: Tensor
    """``[40]`` probabilities."""
    losses: list[float]
    training_crops: Tensor
    """``[160, 1, 25, 25]``, faces first."""

    @property
    def accuracy(self) -> float:
        """Share of the validation crops on the right side of one half."""
        return float(((self.scores > 0.5) == (self.labels > 0)).float().mean())


def train(seed: int, steps: int, progress: Callable[[], None]) -> Trained:
    """Train from scratch; the same seed gives the same weights on the same machine."""
    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(seed)
        images, labels = lfw_crops()
        order = torch.stack([torch.randperm(100), 100 + torch.randperm(100)])
        held_out = order[:, :_VALIDATION].flatten()
        faces, backgrounds = images[order[0, _VALIDATION:]], images[order[1, _VALIDATION:]]
        photographs = _photographs_at_scales()

        model = FaceScorer()
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=steps)
        losses = []
        for _ in range(steps):
            crops, targets = _batch(faces, backgrounds, photographs)
            loss = functional.binary_cross_entropy_with_logits(model(crops), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            progress()
    with torch.no_grad():
        scores = model(images[held_out]).sigmoid()
    return Trained(
        model.requires_grad_(False), images[held_out], labels[held_out], scores, losses,
        torch.cat([faces, backgrounds]),
    )  # fmt: skip


@contextmanager
def _one_thread() -> Iterator[None]:
    """Layers this small gain nothing from threads, and on a busy machine lose to waiting."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def grey(rgb: Tensor) -> Tensor:
    """``[3, H, W]`` uint8 -> ``[1, 1, H, W]`` luma (ITU-R BT.601) in [0, 1]."""
    weights = torch.tensor([0.299, 0.587, 0.114])
    return torch.einsum("chw,c->hw", rgb / 255, weights)[None, None]


def _photographs_at_scales() -> list[Tensor]:
    """Photographs without faces, from a thumbnail to full size: an endless source of negatives."""
    images = []
    for name in FACELESS:
        full = grey(photograph(name))
        for scale in (0.12, 0.18, 0.25, 0.4, 0.7):
            small = functional.interpolate(full, scale_factor=scale, mode="bilinear",
                                           antialias=True)[0, 0]  # fmt: skip
            if min(small.shape) > WINDOW:
                images.append(small)
    return images


def _batch(faces: Tensor, backgrounds: Tensor, photographs: list[Tensor]) -> tuple[Tensor, Tensor]:
    half, sixth = _BATCH // 2, _BATCH // 6
    moved, targets = _moved_faces(faces, _random_crops(photographs, half), half)
    plain = backgrounds[torch.randint(len(backgrounds), (sixth,))]
    crops = torch.cat([moved, plain, _random_crops(photographs, _BATCH - half - sixth)])
    targets = torch.cat([targets, torch.zeros(_BATCH - half)])
    mean = crops.mean((2, 3), keepdim=True)
    contrast = torch.exp(0.3 * torch.randn(_BATCH, 1, 1, 1))
    brightness = 0.1 * torch.randn(_BATCH, 1, 1, 1)
    return ((crops - mean) * contrast + mean + brightness).clamp(0, 1), targets


def _moved_faces(faces: Tensor, behind: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Faces flipped, turned, shifted and scaled over backgrounds, and what each should score."""
    images = faces[torch.randint(len(faces), (count,))]
    is_near = torch.rand(count) < 0.5
    shift = torch.where(is_near[:, None], 1.5 * torch.randn(count, 2), 11 * _uniform(count, 2))
    log_size = torch.where(torch.rand(count) < 0.7, 0.12, 0.6) * torch.randn(count)
    angle, mirror = 0.08 * torch.randn(count), torch.rand(count).sub(0.5).sign()

    cos, sin = torch.cos(angle) / log_size.exp(), torch.sin(angle) / log_size.exp()
    linear = torch.stack([mirror * cos, mirror * sin, -sin, cos], 1).view(count, 2, 2)
    offset = linear @ (-shift / (WINDOW / 2))[..., None]
    grid = functional.affine_grid(torch.cat([linear, offset], 2), list(images.shape), False)
    # Half of them over a photograph, half with their border drawn out: neither alone looks real.
    drawn_out = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    inside = functional.grid_sample(torch.ones_like(images), grid, align_corners=False)
    inside = torch.where((torch.rand(count) < 0.5)[:, None, None, None], 1.0, inside)
    distance = shift.square().sum(1) / _POSITION_SIGMA**2 + log_size.square() / _SCALE_SIGMA**2
    return drawn_out * inside + behind * (1 - inside), torch.exp(-distance / 2)


def _random_crops(photographs: list[Tensor], count: int) -> Tensor:
    crops = []
    for which, y, x in zip(
        torch.randint(len(photographs), (count,)).tolist(),
        torch.rand(count).tolist(),
        torch.rand(count).tolist(),
        strict=True,
    ):
        image = photographs[which]
        top, left = int(y * (image.shape[0] - WINDOW)), int(x * (image.shape[1] - WINDOW))
        crops.append(image[top : top + WINDOW, left : left + WINDOW])
    return torch.stack(crops)[:, None]


def _uniform(*shape: int) -> Tensor:
    return torch.rand(*shape) * 2 - 1
