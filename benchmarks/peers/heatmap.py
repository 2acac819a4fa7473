"""Heatmap decoding; [B, K, H, W] -> positions [B, K, 2] and scores [B, K]."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.peers.common import Array

_KERNEL = 11  # taps of the blur
_SIGMA = 2.0  # what OpenCV takes for them


def torch_argmax(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """The maximum and its position, unrefined."""
    score, index = heatmaps.flatten(2).max(-1)
    width = heatmaps.shape[3]
    return torch.stack((index % width, index // width), -1).to(score.dtype), score


def torch_shift(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """A quarter pixel towards the larger neighbour: four gathers."""
    height, width = heatmaps.shape[2:]
    flat = heatmaps.flatten(2)
    score, index = flat.max(-1)
    x, y = index % width, index // width
    inside = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
    at = torch.where(inside, index, width + 1)
    steps = torch.tensor([1, -1, width, -width], device=heatmaps.device)
    right, left, below, above = flat.gather(2, at.unsqueeze(-1) + steps).unbind(-1)
    offset = 0.25 * torch.stack((torch.sign(right - left), torch.sign(below - above)), -1)
    xy = torch.stack((x, y), -1).to(score.dtype)
    return xy + offset.where(inside.unsqueeze(-1), 0.0), score


def torch_full_map(method: str) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """DARK or UDP as published: the whole map is blurred (here separably) and rescaled."""

    def decode(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        maps = heatmaps.flatten(0, 1)
        taps = _taps(maps)
        blurred = F.conv2d(maps.unsqueeze(1), taps.view(1, 1, 1, -1), padding=(0, _KERNEL // 2))
        blurred = F.conv2d(blurred, taps.view(1, 1, -1, 1), padding=(_KERNEL // 2, 0)).squeeze(1)
        score, index = maps.flatten(1).max(1)
        blurred = blurred * (score / blurred.amax((1, 2))).view(-1, 1, 1)
        x, y = index % maps.shape[2], index // maps.shape[2]
        radius = 2 if method == "dark" else 1
        return _newton(method, _patch(blurred, x, y, radius), x, y, score, heatmaps.shape)

    return decode


def torch_local_window(method: str) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """DARK or UDP by facekernels' identity: only the points that are read are blurred.

    Without the exact treatment of windows that hold clamped values.
    """

    def decode(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        maps = heatmaps.flatten(0, 1)
        score, index = maps.flatten(1).max(1)
        x, y = index % maps.shape[2], index // maps.shape[2]
        radius = 2 if method == "dark" else 1
        side = 2 * radius + 1
        shifts = torch.arange(_KERNEL + side - 1, device=maps.device)
        band = shifts - torch.arange(side, device=maps.device).unsqueeze(1)
        weights = _taps(maps)[band.clamp(0, _KERNEL - 1)]
        weights = weights.where((band >= 0) & (band < _KERNEL), 0.0)
        window = _patch(maps, x, y, radius + _KERNEL // 2, zeros_outside=True)
        return _newton(method, weights @ window @ weights.mT, x, y, score, heatmaps.shape)

    return decode


def _taps(like: Tensor) -> Tensor:
    position = torch.arange(_KERNEL, dtype=like.dtype, device=like.device) - _KERNEL // 2
    weights = torch.exp(-(position**2) / (2 * _SIGMA**2))
    return weights / weights.sum()


def _patch(maps: Tensor, x: Tensor, y: Tensor, radius: int, zeros_outside: bool = False) -> Tensor:
    """The squares [N, 2 r + 1, 2 r + 1] of maps [N, H, W] around (x, y)."""
    height, width = maps.shape[1:]
    near = torch.arange(-radius, radius + 1, device=maps.device)
    columns, rows = x.view(-1, 1, 1) + near, (y.unsqueeze(1) + near).unsqueeze(2)
    index = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    patch = maps.flatten(1).gather(1, index.flatten(1)).view(index.shape)
    if not zeros_outside:
        return patch
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    return patch.where(inside, 0.0)


def _newton(
    method: str, patch: Tensor, x: Tensor, y: Tensor, score: Tensor, shape: torch.Size
) -> tuple[Tensor, Tensor]:
    """The step on the logarithm of blurred values around the maximum, [N, 5, 5] or [N, 3, 3]."""
    height, width = shape[2:]
    if method == "dark":
        h = patch.clamp(min=1e-10).log()
        dx, dy = (h[:, 2, 3] - h[:, 2, 1]) / 2, (h[:, 3, 2] - h[:, 1, 2]) / 2
        dxx = (h[:, 2, 4] - 2 * h[:, 2, 2] + h[:, 2, 0]) / 4
        dyy = (h[:, 4, 2] - 2 * h[:, 2, 2] + h[:, 0, 2]) / 4
        dxy = (h[:, 3, 3] - h[:, 1, 3] - h[:, 3, 1] + h[:, 1, 1]) / 4
        applies = (x > 1) & (x < width - 2) & (y > 1) & (y < height - 2)
    else:
        # Beyond the border UDP repeats the value at the border.
        near = torch.arange(-1, 2, device=x.device)
        columns = (x.unsqueeze(1) + near).clamp(0, width - 1) - x.unsqueeze(1) + 1
        rows = (y.unsqueeze(1) + near).clamp(0, height - 1) - y.unsqueeze(1) + 1
        index = (3 * rows.unsqueeze(2) + columns.unsqueeze(1)).flatten(1)
        h = patch.clamp(1e-3, 50).log().flatten(1).gather(1, index).view(-1, 3, 3)
        dx, dy = (h[:, 1, 2] - h[:, 1, 0]) / 2, (h[:, 2, 1] - h[:, 0, 1]) / 2
        eps = torch.finfo(torch.float32).eps
        dxx = h[:, 1, 2] - 2 * h[:, 1, 1] + h[:, 1, 0] + eps
        dyy = h[:, 2, 1] - 2 * h[:, 1, 1] + h[:, 0, 1] + eps
        corners = h[:, 2, 2] + h[:, 0, 0] + 2 * h[:, 1, 1]
        dxy = (corners - h[:, 1, 2] - h[:, 2, 1] - h[:, 1, 0] - h[:, 0, 1]) / 2
        applies = torch.ones_like(x, dtype=torch.bool)
    det = dxx * dyy - dxy * dxy
    offset = torch.stack((dxy * dy - dyy * dx, dxy * dx - dxx * dy), -1) / det.unsqueeze(-1)
    offset = offset.where((applies & (det != 0)).unsqueeze(-1), 0.0)
    xy = torch.stack((x, y), -1).to(offset.dtype) + offset
    return xy.view(*shape[:2], 2), score.view(shape[:2])


def numpy_argmax(heatmaps: Tensor) -> tuple[Array, Array]:
    """NumPy's vectorised argmax."""
    h = heatmaps.numpy(force=True)
    flat = h.reshape(*h.shape[:2], -1)
    index = flat.argmax(-1)
    score = np.take_along_axis(flat, index[..., None], -1)[..., 0]
    y, x = np.divmod(index, h.shape[3])
    return np.stack((x, y), -1).astype(h.dtype), score


def numpy_shift(heatmaps: Tensor) -> tuple[Array, Array]:
    """The quarter pixel without a loop, faster than any published form."""
    h = heatmaps.numpy(force=True)
    xy, score = numpy_argmax(heatmaps)
    height, width = h.shape[2:]
    x, y = (xy[..., i].astype(np.int64) for i in range(2))
    b, k = np.nonzero((x > 1) & (x < width - 1) & (y > 1) & (y < height - 1))
    x, y = x[b, k], y[b, k]
    xy[b, k, 0] += 0.25 * np.sign(h[b, k, y, x + 1] - h[b, k, y, x - 1])
    xy[b, k, 1] += 0.25 * np.sign(h[b, k, y + 1, x] - h[b, k, y - 1, x])
    return xy, score


def numpy_shift_loop(heatmaps: Tensor) -> tuple[Array, Array]:
    """The quarter pixel as published: a loop over the keypoints."""
    h = heatmaps.numpy(force=True)
    xy, score = numpy_argmax(heatmaps)
    height, width = h.shape[2:]
    for b in range(h.shape[0]):
        for k in range(h.shape[1]):
            one, (x, y) = h[b, k], xy[b, k].astype(int)
            if 1 < x < width - 1 and 1 < y < height - 1:
                steps = (one[y, x + 1] - one[y, x - 1], one[y + 1, x] - one[y - 1, x])
                xy[b, k] += 0.25 * np.sign(steps)
    return xy, score


def opencv_full_map(method: str) -> Callable[[Tensor], tuple[Array, Array]]:
    """DARK or UDP as published: cv2.GaussianBlur and a logarithm of every map, then NumPy."""
    import cv2

    def decode(heatmaps: Tensor) -> tuple[Array, Array]:
        h = np.ascontiguousarray(heatmaps.numpy(force=True))  # cv2 takes no strided columns
        xy, score = numpy_argmax(heatmaps)
        logs = np.empty_like(h)
        for b, k in np.ndindex(*h.shape[:2]):
            cv2.GaussianBlur(
                h[b, k], (_KERNEL, _KERNEL), 0, dst=logs[b, k], borderType=cv2.BORDER_CONSTANT
            )
            logs[b, k] *= score[b, k] / logs[b, k].max()
        np.clip(logs, *((1e-10, None) if method == "dark" else (1e-3, 50)), out=logs)
        np.log(logs, out=logs)
        refine = _numpy_dark if method == "dark" else _numpy_udp
        return refine(logs, xy), score

    return decode


def _numpy_dark(logs: Array, xy: Array) -> Array:
    height, width = logs.shape[2:]
    for b, k in np.ndindex(*logs.shape[:2]):
        h, (x, y) = logs[b, k], xy[b, k].astype(int)
        if not (1 < x < width - 2 and 1 < y < height - 2):
            continue
        gradient = np.array([h[y, x + 1] - h[y, x - 1], h[y + 1, x] - h[y - 1, x]]) / 2
        dxx = (h[y, x + 2] - 2 * h[y, x] + h[y, x - 2]) / 4
        dyy = (h[y + 2, x] - 2 * h[y, x] + h[y - 2, x]) / 4
        dxy = (h[y + 1, x + 1] - h[y - 1, x + 1] - h[y + 1, x - 1] + h[y - 1, x - 1]) / 4
        if dxx * dyy - dxy * dxy != 0:
            xy[b, k] -= np.linalg.solve([[dxx, dxy], [dxy, dyy]], gradient)
    return xy


def _numpy_udp(logs: Array, xy: Array) -> Array:
    h = np.pad(logs, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    b, k = np.indices(xy.shape[:2])
    x, y = (xy[..., i].astype(np.int64) + 1 for i in range(2))
    center = h[b, k, y, x]
    right, left = h[b, k, y, x + 1], h[b, k, y, x - 1]
    below, above = h[b, k, y + 1, x], h[b, k, y - 1, x]
    corners = h[b, k, y + 1, x + 1] + h[b, k, y - 1, x - 1] + 2 * center
    gradient = np.stack((right - left, below - above), -1) / 2
    dxx, dyy = right - 2 * center + left, below - 2 * center + above
    dxy = (corners - right - below - left - above) / 2
    hessian = np.stack((dxx, dxy, dxy, dyy), -1).reshape(*dxx.shape, 2, 2)
    hessian = hessian + np.finfo(np.float32).eps * np.eye(2)
    step: Array = np.linalg.solve(hessian, gradient[..., None])[..., 0]
    return xy - step
