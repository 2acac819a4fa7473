"""Slides the scorer over a photograph at several sizes and decodes where the face is."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

from facekernels.cli.demo.model import STRIDE, WINDOW, FaceScorer
from facekernels.cli.demo.train import grey
from facekernels.ops import decode_heatmaps, heatmap_peaks

_FACE_SIZES = tuple(60 * 2 ** (i / 4) for i in range(8))  # photo pixels


class Level(NamedTuple):
    """The photograph at one size."""

    face_size: float
    """Width of a window in pixels of the photograph."""
    step: float
    """Distance between neighbouring scores in pixels of the photograph."""
    windows: Tensor
    """Branch features ``[G, N, C, 7, 7]`` of every window."""
    votes: Tensor
    """``[G, rows, columns]`` logits of each branch."""
    heatmap: Tensor
    """``[rows, columns]`` face probabilities, averaged over the photograph and its mirror image."""
    cell: Tensor
    """``[2]`` decoded (x, y) in the heatmap."""
    score: float

    def image(self, photo: Tensor) -> Tensor:
        """The grey photograph ``[1, 1, S, S]`` as this level saw it."""
        return _resized(photo, self.face_size)

    def to_photo(self, xy: Tensor) -> Tensor:
        """Heatmap coordinates -> pixels of the photograph (pixel centres at integers)."""
        return xy * self.step + self.face_size / 2 - 0.5


class Detection(NamedTuple):
    """The face, and all that led to it."""

    levels: list[Level]
    best: Level
    center: Tensor
    """``[2]`` (x, y) in pixels of the photograph."""
    peaks: Tensor
    """``[P, 2]`` local maxima of the best level's heatmap, best first."""
    peak_scores: Tensor

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom in pixels of the photograph."""
        x, y = self.center.tolist()
        half = self.best.face_size / 2
        return x - half, y - half, x + half, y + half


def detect(model: FaceScorer, photo: Tensor) -> Detection:
    """Find the best face of a square photograph ``[3, S, S]`` uint8."""
    image = grey(photo)
    levels = [_level(model, image, size) for size in _FACE_SIZES]
    best = max(levels, key=lambda level: level.score)
    found = heatmap_peaks(best.heatmap[None, None], kernel=5, threshold=0.05, topk=5)
    count = int(found.count)
    return Detection(
        levels,
        best,
        best.to_photo(best.cell),
        found.xy.reshape(-1, 2)[:count].float(),
        found.score.reshape(-1)[:count].float(),
    )


def _level(model: FaceScorer, image: Tensor, face_size: float) -> Level:
    small = _resized(image, face_size)
    scale = image.shape[-1] / small.shape[-1]
    windows, grid = model.windows(small)
    votes = model.votes(windows).unflatten(1, grid)
    mirrored = model.votes(model.windows(small.flip(-1))[0]).unflatten(1, grid)
    plain, mirror = (v.sum(0).sigmoid()[None, None] for v in (votes, mirrored))
    heatmap = ((plain + mirror.flip(-1)) / 2)[0, 0]
    decoded = decode_heatmaps(heatmap[None, None], method="dark", kernel=3)
    return Level(
        WINDOW * scale, STRIDE * scale, windows, votes, heatmap, decoded.xy[0, 0].float(),
        float(decoded.score[0, 0]),
    )  # fmt: skip


def _resized(image: Tensor, face_size: float) -> Tensor:
    """A square image in which a face of that size fills a window."""
    # Odd, so that the windows end at the last pixel and mirroring keeps their grid.
    side = 2 * round((image.shape[-1] * WINDOW / face_size - 1) / 2) + 1
    return functional.interpolate(image, (side, side), mode="bilinear", antialias=True)
