"""Peaks; [B, K, H, W] -> scores and flat positions [B, K, topk], best first."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from benchmarks.peers.common import Array

Peaks = tuple[Tensor, ...]


def pooled_peaks(kernel: int, threshold: float, topk: int) -> Callable[[Tensor], Peaks]:
    """CenterNet's: a cell is a peak where max pooling returns it; then topk over all cells."""

    def find(heatmaps: Tensor) -> Peaks:
        pooled = F.max_pool2d(heatmaps, kernel, 1, kernel // 2)
        is_peak = (pooled == heatmaps) & (heatmaps > threshold)
        return tuple(heatmaps.where(is_peak, 0.0).flatten(2).topk(topk))

    return find


def kornia_peaks(kernel: int, threshold: float, topk: int) -> Callable[[Tensor], Peaks]:
    """Non-maximum suppression by kornia, which drops plateaus and the border; then topk."""
    from kornia.geometry.subpix import nms2d

    def find(heatmaps: Tensor) -> Peaks:
        kept = nms2d(heatmaps, (kernel, kernel))
        return tuple(kept.where(kept > threshold, 0.0).flatten(2).topk(topk))

    return find


def scipy_peaks(kernel: int, threshold: float, topk: int) -> Callable[[Tensor], tuple[Array, ...]]:
    """Maximum filter of scipy, map by map; only the few peaks are sorted."""
    from scipy.ndimage import maximum_filter

    def find(heatmaps: Tensor) -> tuple[Array, ...]:
        h = heatmaps.numpy(force=True)
        score = np.zeros((*h.shape[:2], topk), h.dtype)
        index = np.zeros((*h.shape[:2], topk), np.int64)
        for b, k in np.ndindex(*h.shape[:2]):
            one = h[b, k]
            is_peak = (maximum_filter(one, kernel, mode="nearest") == one) & (one > threshold)
            at = np.flatnonzero(is_peak)
            values = one.ravel()[at]
            best = np.argsort(-values, kind="stable")[:topk]
            score[b, k, : best.size], index[b, k, : best.size] = values[best], at[best]
        return score, index

    return find
