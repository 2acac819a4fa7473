"""Local maxima of heatmaps: max-pool non-maximum suppression and top-k in one read."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from facekernels import _check
from facekernels._op import Op, launch, use_reference
from facekernels.reference.peaks import heatmap_peaks as _reference

_PEAKS = Op(
    "heatmap_peaks(Tensor heatmaps, int kernel, float threshold, bool strict, Tensor(a!) xy, "
    "Tensor(b!) score, Tensor(c!) index, Tensor(d!) count) -> ()"
)


class Peaks(NamedTuple):
    """The best peaks of every map, best first; entries past the count are padding."""

    xy: Tensor
    """``[B, K, topk, 2]`` pixels (x, y), float32 (float64 for float64 maps); padding -1."""
    score: Tensor
    """``[B, K, topk]`` values of the map, in its dtype; padding 0."""
    index: Tensor  # type: ignore[assignment]  # shadows tuple.index
    """``[B, K, topk]`` int64 flat positions ``y * W + x``; padding -1."""
    count: Tensor  # type: ignore[assignment]  # shadows tuple.count
    """``[B, K]`` int64, how many entries are peaks."""


def heatmap_peaks(
    heatmaps: Tensor,
    *,
    kernel: int = 3,
    threshold: float = 0.0,
    topk: int = 100,
    strict: bool = False,
) -> Peaks:
    """The topk largest local maxima of each map, without sorting the map.

    Equivalent to::

        local_max = F.max_pool2d(heatmaps, kernel, 1, kernel // 2) == heatmaps
        is_peak = local_max & (heatmaps > threshold)
        score, index = torch.where(is_peak, heatmaps, -inf).flatten(2).topk(topk)
        xy = torch.stack((index % W, index // W), -1)  # then padding for scores of -inf

    except that equal scores are ordered by index, which topk leaves open, and for NaN.

    Args:
        heatmaps: ``[B, K, H, W]``, float32, float64, float16 or bfloat16, any strides. B = 0 and
            K = 0 give empty results; H and W must be at least 1.
        kernel: side of the square window in which a peak is the largest; odd and positive, may
            exceed the map. Cells outside the map do not compete, so border cells can be peaks.
        threshold: a peak is larger than this number.
        topk: the largest number of peaks per map, at least 0, may exceed H * W.
        strict: whether a peak must exceed every other cell of its window. If not, all cells of a
            plateau are peaks, as in the max-pool form.

    Returns:
        `Peaks` ordered by (score descending, index ascending). They carry no gradient: for one,
        gather from heatmaps with ``index``.

    A NaN is never a peak and suppresses none; +inf is larger than every finite cell.

    Raises:
        TypeError: heatmaps is not a floating-point tensor, kernel or topk is not an integer, or
            threshold is not a number.
        ValueError: a shape or device does not fit, kernel is even or not positive, topk is
            negative, or threshold is NaN.

    Source: peak extraction of CenterNet (Zhou et al., arXiv 1904.07850, section 4).
    """
    _check.floating("heatmaps", heatmaps)
    if heatmaps.ndim != 4:
        raise ValueError(f"heatmaps must be [B, K, H, W], got shape {_check.shape_of(heatmaps)}")
    batch, channels, height, width = heatmaps.shape
    if height == 0 or width == 0:
        raise ValueError(f"heatmaps must be at least 1 x 1, got {height} x {width}")
    for name, value in (("kernel", kernel), ("topk", topk)):
        if not isinstance(value, int):
            raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"kernel must be odd and positive, got {kernel}")
    if topk < 0:
        raise ValueError(f"topk must be at least 0, got {topk}")
    if not isinstance(threshold, (int, float)):
        raise TypeError(f"threshold must be a number, got {type(threshold).__name__}")
    if threshold != threshold:
        raise ValueError("threshold must be a number, got NaN")
    heatmaps = heatmaps.detach()
    if use_reference():
        return Peaks(
            *_reference(heatmaps, kernel=kernel, threshold=threshold, topk=topk, strict=strict)
        )
    exact = _check.wide_dtype(heatmaps)
    xy = heatmaps.new_empty((batch, channels, topk, 2), dtype=exact)
    score = heatmaps.new_empty((batch, channels, topk))
    index = heatmaps.new_empty((batch, channels, topk), dtype=torch.int64)
    count = heatmaps.new_empty((batch, channels), dtype=torch.int64)
    maps = _check.resolve_neg(heatmaps)
    launch(_PEAKS, maps, min(kernel, 2**31 - 1), float(threshold), strict, xy, score, index, count)
    return Peaks(xy, score, index, count)
