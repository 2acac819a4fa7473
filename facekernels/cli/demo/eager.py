"""Eager PyTorch as one would write it to be fast, for ops whose reference is written to be read."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from facekernels.reference.heatmap import gaussian_taps


def decode_dark(heatmaps: Tensor, *, method: str, kernel: int) -> tuple[Tensor, Tensor, Tensor]:
    """DARK for maps ``[B, K, H, W]``: two convolutions, and gathers around each maximum."""
    assert method == "dark"
    width, height, radius = heatmaps.shape[3], heatmaps.shape[2], kernel // 2
    score, index = heatmaps.flatten(2).max(-1)
    taps = torch.tensor(gaussian_taps(kernel), dtype=heatmaps.dtype)
    blurred = functional.conv2d(heatmaps.flatten(0, 1)[:, None], taps.view(1, 1, 1, -1),
                                padding=(0, radius))  # fmt: skip
    blurred = functional.conv2d(blurred, taps.view(1, 1, -1, 1), padding=(radius, 0))
    logs = blurred.clamp_min(1e-10).log().view_as(heatmaps).flatten(2)

    x, y = index % width, index // width
    inside = (x > 1) & (x < width - 2) & (y > 1) & (y < height - 2) & (score > 0)
    index = torch.where(inside, index, 2 * width + 2)
    steps = torch.tensor([0, 1, -1, width, -width, 2, -2, 2 * width, -2 * width,
                          width + 1, width - 1, -width + 1, -width - 1])  # fmt: skip
    p = logs.gather(2, index[..., None] + steps).unbind(2)
    gx, gy = (p[1] - p[2]) / 2, (p[3] - p[4]) / 2
    xx, yy = (p[5] - 2 * p[0] + p[6]) / 4, (p[7] - 2 * p[0] + p[8]) / 4
    xy = (p[9] - p[10] - p[11] + p[12]) / 4
    det = xx * yy - xy * xy
    step = -torch.stack([yy * gx - xy * gy, xx * gy - xy * gx], -1) / det[..., None]
    step = torch.where((inside & (det != 0))[..., None], step.clamp(-1, 1), 0)
    valid = score > 0
    found = torch.where(valid[..., None], torch.stack([x, y], -1) + step, -1)
    return found, score, valid


def max_pool_peaks(
    heatmaps: Tensor, *, kernel: int, threshold: float, topk: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Peaks by max-pooling and top-k."""
    is_peak = functional.max_pool2d(heatmaps, kernel, 1, kernel // 2) == heatmaps
    candidates = torch.where(is_peak & (heatmaps > threshold), heatmaps, -torch.inf)
    score, index = candidates.flatten(2).topk(topk)
    found = score > -torch.inf
    width = heatmaps.shape[3]
    xy = torch.stack([index % width, index // width], -1)
    return (
        torch.where(found[..., None], xy, -1).to(heatmaps.dtype),
        torch.where(found, score, 0),
        torch.where(found, index, -1),
        found.sum(-1),
    )


def erase_rounds(images: Tensor, attention: Tensor, rects: Tensor) -> tuple[Tensor, ...]:
    """A masked argmax per round over the whole batch, and a comparison for each rectangle."""
    height, width = images.shape[2:]
    left = attention.flatten(1).clone()
    mask = torch.zeros(len(images), height, width, dtype=torch.bool)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    anchors = []
    for rect in rects.unbind(1):
        anchor = left.argmax(1)
        h, w, above, before = rect.unsqueeze(2).unsqueeze(3).unbind(1)
        y, x = (anchor // width)[:, None, None] - above, (anchor % width)[:, None, None] - before
        block = (rows >= y) & (rows < y + h) & (columns >= x) & (columns < x + w)
        mask |= block
        left.masked_fill_(block.flatten(1), -torch.inf).scatter_(1, anchor[:, None], -torch.inf)
        anchors.append(anchor)
    mask = mask[:, None]
    return torch.where(mask, 0, images), mask, torch.stack(anchors, 1)


def erase_topk(images: Tensor, attention: Tensor, *, n: int) -> tuple[Tensor, Tensor]:
    """Top-k and a scatter; which of equal cells are erased is left open."""
    index = attention.flatten(1).topk(n, sorted=False).indices
    mask = torch.zeros(attention.flatten(1).shape, dtype=torch.bool).scatter_(1, index, True)
    mask = mask.view_as(attention)
    return torch.where(mask, 0, images), mask
