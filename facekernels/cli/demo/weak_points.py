"""What the scorer's decision hangs on: where it is sensitive, and what one perturbation does."""

from __future__ import annotations

from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor, nn

from facekernels.cli.demo.detect import Detection
from facekernels.cli.demo.model import STRIDE, WINDOW, FaceScorer
from facekernels.cli.demo.train import Trained, grey
from facekernels.nn import gradient_attention
from facekernels.ops import erase_regions, erase_top_n, sample_rects
from facekernels.systems.sga import UAPTrainer, UniversalPerturbation, fooling_ratio

EPSILON = 16 / 255
REGIONS, TOP = 3, 0.1  # rectangles, and share of the pixels, that are erased
_NOISE_DRAWS = 20


class Crop(NamedTuple):
    """What a window shows, and what it scores."""

    pixels: Tensor
    """``[1, 25, 25]`` in [0, 1]."""
    score: float


class WeakPoints(NamedTuple):
    """Everything the report shows of them."""

    face: Crop
    """The best window of the photograph."""
    sensitivity: Tensor
    """``[1, 100, 100]`` in [0, 1]: magnitude of the score's gradient, over its largest."""
    without_regions: Crop
    """`REGIONS` rectangles erased around the most sensitive pixels."""
    without_top: Crop
    """The `TOP` most sensitive pixels erased."""
    perturbation: UniversalPerturbation
    """Trained on the 160 training crops."""
    perturbed: Crop
    """The face with it."""
    fooled: float
    """Share of the 40 validation crops on whose side of 0.5 the perturbation decides."""
    fooled_by_noise: float
    """The same for random signs of the same size, on average."""


def find_weak_points(
    trained: Trained, detection: Detection, photo: Tensor, seed: int
) -> WeakPoints:
    """Take the best window apart, and fool the scorer with one perturbation for all crops."""
    model = trained.model
    face = _best_window(detection, photo)
    attention = gradient_attention(model, face, target=_logit)
    larger = gradient_attention(model, face, target=_logit, normalize="max", size=4 * WINDOW)
    generator = torch.Generator().manual_seed(seed)
    rects = sample_rects(1, REGIONS, WINDOW, max_height=8, max_width=8, generator=generator)
    regions = erase_regions(face, attention, rects, fill="mean").images
    top = erase_top_n(face, attention, fraction=TOP, fill="mean").images

    two = _TwoClasses(model)
    trainer = UAPTrainer(two, large_batch=80, small_batch=10, epsilon=EPSILON, seed=seed)
    perturbation = trainer.fit(trained.training_crops, epochs=10)
    noise = EPSILON * torch.randn(_NOISE_DRAWS, *face.shape[1:], generator=generator).sign()
    return WeakPoints(
        _crop(model, face), larger[0].clamp(0, 1), _crop(model, regions), _crop(model, top),
        perturbation, _crop(model, perturbation(face)),
        perturbation.fooling_ratio(two, trained.crops),
        fmean(fooling_ratio(two, trained.crops, delta) for delta in noise),
    )  # fmt: skip


class _TwoClasses(nn.Module):
    """Logits of background and face, ``[B, 2]``, as attacks on classifiers expect."""

    def __init__(self, scorer: FaceScorer) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(self, crops: Tensor) -> Tensor:
        """``[B, 1, 25, 25]`` -> ``[B, 2]``."""
        logit = self.scorer(crops)
        return torch.stack([torch.zeros_like(logit), logit], 1)


def _logit(output: Tensor, _: Tensor | None) -> Tensor:
    return output


def _best_window(detection: Detection, photo: Tensor) -> Tensor:
    """``[1, 1, 25, 25]``: what the highest score of the heatmap was given to."""
    level = detection.best
    row, column = divmod(int(level.heatmap.argmax()), level.heatmap.shape[1])
    image = level.image(grey(photo))
    return image[..., STRIDE * row :, STRIDE * column :][..., :WINDOW, :WINDOW]


def _crop(model: FaceScorer, crop: Tensor) -> Crop:
    with torch.no_grad():
        return Crop(crop[0], float(model(crop).sigmoid()))
