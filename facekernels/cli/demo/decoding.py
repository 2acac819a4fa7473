"""Stand-in for the heatmap family until it is merged: replaced by `facekernels.ops`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Keypoints(NamedTuple):
    """Positions of the highest point of each map."""

    xy: Tensor
    score: Tensor
    valid: Tensor


class Peaks(NamedTuple):
    """Local maxima, best first, padded to top-k."""

    xy: Tensor
    score: Tensor
    found: Tensor


def flip_average(heatmaps: Tensor, mirrored: Tensor, pairs: tuple[()] = ()) -> Tensor:
    """Average of maps and of the maps of the mirrored image."""
    return (heatmaps + mirrored.flip(-1)) / 2


def decode_heatmaps(heatmaps: Tensor, method: str = "dark") -> Keypoints:
    """Argmax and a Newton step on the log of the map."""
    assert method == "dark"
    _, _, height, width = heatmaps.shape
    score, index = heatmaps.flatten(2).max(-1)
    x, y = int(index % width), int(index // width)
    xy = torch.tensor([x, y], dtype=torch.float32)
    if 1 < x < width - 2 and 1 < y < height - 2:
        p = heatmaps[0, 0, y - 2 : y + 3, x - 2 : x + 3].clamp_min(1e-10).log()
        gradient = torch.stack([p[2, 3] - p[2, 1], p[3, 2] - p[1, 2]]) / 2
        dxy = p[3, 3] - p[3, 1] - p[1, 3] + p[1, 1]
        hessian = torch.stack([p[2, 4] - 2 * p[2, 2] + p[2, 0], dxy, dxy,
                               p[4, 2] - 2 * p[2, 2] + p[0, 2]]).view(2, 2) / 4  # fmt: skip
        xy -= torch.linalg.solve(hessian, gradient).clamp(-1, 1)
    return Keypoints(xy.view(1, 1, 2), score, score > 0)


def heatmap_peaks(heatmaps: Tensor, kernel: int, threshold: float, topk: int) -> Peaks:
    """Pixels that are the maximum of their neighbourhood."""
    is_peak = functional.max_pool2d(heatmaps, kernel, 1, kernel // 2) == heatmaps
    score, index = torch.where(is_peak, heatmaps, 0).flatten(2).topk(topk)
    xy = torch.stack([index % heatmaps.shape[3], index // heatmaps.shape[3]], -1)
    return Peaks(xy, score, (score > threshold).sum(-1))
