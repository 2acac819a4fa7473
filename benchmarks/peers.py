"""The implementations facekernels is compared with, each in the best form we know."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Array = NDArray[Any]
Peaks = tuple[Tensor, ...]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile for one fixed shape; a graph break is an error, not a slower peer."""
    return torch.compile(function, fullgraph=True, dynamic=False)


# ---- MLCA


def mlca_branch_loop(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """SwinFace as published: branch by branch, pooling modules, the scaled map is written."""
    branches = zip(x, w1, b1, w2, b2, strict=True)
    return torch.stack([_mlca_branch(*branch) for branch in branches])


def _mlca_branch(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    size = x.shape[-2:]
    attention = None
    for pool in (F.avg_pool2d, F.max_pool2d):
        pooled = pool(x, size).flatten(1)
        hidden = torch.relu(F.linear(pooled, w1, b1))
        logits = F.linear(hidden, w2, b2)
        attention = logits if attention is None else attention + logits
    scale = torch.sigmoid(attention)[:, :, None, None].expand_as(x)
    return F.max_pool2d(torch.relu(x * scale), size).flatten(1)


def mlca_module(module: Any, x: Tensor) -> Tensor:
    """nn.MLCA's parameters in SwinFace's order of work: four convolutions and a gate per branch."""
    outputs = []
    for net in module.nets:
        levels = zip(net.conv.convs, x.split(module.in_channels, 1), strict=True)
        features = torch.cat([conv(level) for conv, level in levels], 1)
        _, first, _, second = net.channel_attention.mlp
        gate = first.weight, first.bias, second.weight, second.bias
        outputs.append(net.norm(_mlca_branch(features, *gate)))
    return torch.stack(outputs)


def mlca_folded(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """All branches at once, with the algebra facekernels uses: no scaled map, one second layer."""
    mean, maximum = x.mean((-2, -1)), x.amax((-2, -1))
    bias = b1.unsqueeze(1)
    hidden = torch.relu(torch.baddbmm(bias, mean, w1.mT)) + torch.relu(
        torch.baddbmm(bias, maximum, w1.mT)
    )
    scale = torch.sigmoid(torch.baddbmm(2 * b2.unsqueeze(1), hidden, w2.mT))
    return scale * torch.relu(maximum)


# ---- Consistency of class activation maps; views [B, C, H, W], weight [K, C]


def cam_flip_published(features: Tensor, flipped: Tensor, weight: Tensor, w: Tensor) -> Tensor:
    """The released order of work: products of all classes and channels are written, summed, and
    mirrored by resampling.
    """
    maps, other = ((weight[:, :, None, None] * f.unsqueeze(1)).sum(2) for f in (features, flipped))
    batch, _, height, width = maps.shape
    x = torch.linspace(1, -1, width, dtype=maps.dtype, device=maps.device).expand(height, width)
    y = torch.linspace(-1, 1, height, dtype=maps.dtype, device=maps.device).unsqueeze(1)
    grid = torch.stack((x, y.expand(height, width)), -1).expand(batch, height, width, 2)
    other = F.grid_sample(other, grid, padding_mode="border", align_corners=True)
    return ((maps - other).square().mean((2, 3)) * w).sum(1).mean()


def cam_flip_einsum(features: Tensor, flipped: Tensor, weight: Tensor, w: Tensor) -> Tensor:
    """Two products, of which one is flipped."""
    maps, other = (torch.einsum("bchw,kc->bkhw", f, weight) for f in (features, flipped))
    return ((maps - other.flip(-1)).square().mean((0, 2, 3)) * w).sum()


def cam_flip_difference(features: Tensor, flipped: Tensor, weight: Tensor, w: Tensor) -> Tensor:
    """One product, of the difference, in the layout in which it needs no copy."""
    difference = features - flipped.flip(-1)
    if difference.is_contiguous():
        residual = torch.matmul(weight, difference.flatten(2))
    else:
        residual = torch.matmul(difference.permute(0, 2, 3, 1).flatten(1, 2), weight.mT).mT
    return (residual.square().mean((0, 2)) * w).sum()


# ---- Margin softmax (CosFace); embeddings [B, D], class weights [V, D], labels [B] -> mean loss


def margin_eager(e: Tensor, w: Tensor, labels: Tensor, s: float, margin: float) -> Tensor:
    """The logits, and the margin at one column of each row."""
    cosines = (F.normalize(e) @ F.normalize(w).T).clamp(-1, 1)
    column = labels.unsqueeze(1)
    target = cosines.gather(1, column) - margin
    return F.cross_entropy(s * cosines.scatter(1, column, target), labels)


def margin_published(e: Tensor, w: Tensor, labels: Tensor, s: float, margin: float) -> Tensor:
    """Partial FC as released: maximum, exponential, sum and quotient one after the other, and a
    backward pass of its own.
    """
    logits = F.linear(F.normalize(e), F.normalize(w)).clamp(-1, 1)
    rows = torch.arange(len(labels), device=labels.device)
    logits[rows, labels] = logits[rows, labels] - margin
    loss: Tensor = _PublishedCrossEntropy.apply(logits * s, labels)
    return loss


class _PublishedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        logits = logits - logits.amax(1, keepdim=True)
        probabilities = logits.exp_()
        probabilities /= probabilities.sum(1, keepdim=True)
        ctx.save_for_backward(probabilities, labels)
        return -probabilities.gather(1, labels.unsqueeze(1)).clamp_min(1e-30).log().mean()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        probabilities, labels = ctx.saved_tensors
        one_hot = torch.zeros_like(probabilities).scatter_(1, labels.unsqueeze(1), 1)
        return (probabilities - one_hot).div_(len(labels)) * grad, None


def margin_chunked(
    e: Tensor, w: Tensor, labels: Tensor, s: float, margin: float, chunk: int = 4096
) -> Tensor:
    """No more than `chunk` columns of logits at a time, computed again in the backward pass."""
    from torch.utils.checkpoint import checkpoint

    unit = F.normalize(e)
    sums = [
        checkpoint(_chunk_sum, unit, w[first : first + chunk], labels - first, s, margin,
                   use_reentrant=False)
        for first in range(0, len(w), chunk)
    ]  # fmt: skip
    target = (unit * F.normalize(w[labels])).sum(1).clamp(-1, 1) - margin
    return (torch.stack(sums).logsumexp(0) - s * target).mean()


def _chunk_sum(unit: Tensor, w: Tensor, labels: Tensor, s: float, margin: float) -> Tensor:
    cosines = (unit @ F.normalize(w).T).clamp(-1, 1)
    inside = (labels >= 0) & (labels < len(w))
    column = labels.where(inside, 0).unsqueeze(1)
    shift = torch.zeros_like(cosines).scatter_(1, column, (margin * inside).unsqueeze(1).to(w))
    return (s * (cosines - shift)).logsumexp(1)


# ---- Soft-argmax


def soft_argmax(heatmaps: Tensor, beta: float) -> Tensor:
    """Softmax over the map, then the marginals' expectations: two sums over the map, not four."""
    height, width = heatmaps.shape[2:]
    p = torch.softmax(beta * heatmaps.flatten(2), -1).view(heatmaps.shape)
    x = torch.arange(width, dtype=p.dtype, device=p.device)
    y = torch.arange(height, dtype=p.dtype, device=p.device)
    return torch.stack((p.sum(2) @ x, p.sum(3) @ y), -1)


def kornia_soft_argmax(beta: float) -> Callable[[Tensor], Tensor]:
    """kornia's, whose temperature divides."""
    from kornia.geometry import spatial_soft_argmax2d

    return lambda h: spatial_soft_argmax2d(h, 1 / beta, normalized_coordinates=False)


# ---- Heatmap decoding; [B, K, H, W] -> positions [B, K, 2] and scores [B, K]

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


# ---- Peaks; [B, K, H, W] -> scores and flat positions [B, K, topk], best first


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


# ---- Erasing


def topk_erase(images: Tensor, attention: Tensor, n: int) -> Tensor:
    """The n largest cells of every map, scattered into a copy."""
    index = attention.flatten(1).topk(n, sorted=False).indices
    channels = images.shape[1]
    index = index.unsqueeze(1).expand(-1, channels, -1)
    return images.flatten(2).scatter(2, index, 0.0).view(images.shape)


def topk_erase_masked(images: Tensor, attention: Tensor, n: int) -> Tensor:
    """The n largest cells of every map, as a mask."""
    flat = attention.flatten(1)
    index = flat.topk(n, sorted=False).indices
    mask = torch.zeros_like(flat, dtype=torch.bool).scatter(1, index, True)
    return torch.where(mask.view_as(attention), 0.0, images)


def torch_rounds(images: Tensor, attention: Tensor, rects: Tensor) -> Tensor:
    """A masked argmax per round, for the whole batch at once."""
    height, width = images.shape[2:]
    left = attention.flatten(1)
    rows = torch.arange(height, device=images.device)[:, None]
    columns = torch.arange(width, device=images.device)
    mask = torch.zeros_like(attention, dtype=torch.bool).squeeze(1)
    for rect in rects.unbind(1):
        anchor = left.argmax(1, keepdim=True)
        h, w, above, before = rect[:, :, None, None].unbind(1)
        y, x = (anchor // width)[..., None] - above, (anchor % width)[..., None] - before
        block = (rows >= y) & (rows < y + h) & (columns >= x) & (columns < x + w)
        mask = mask | block
        left = left.masked_fill(block.flatten(1), -torch.inf).scatter(1, anchor, -torch.inf)
    return torch.where(mask.unsqueeze(1), 0.0, images)


def rfm_loop(images: Tensor, attention: Tensor, rects: Tensor) -> Tensor:
    """RFM as published: every map is sorted on the host and scanned pixel by pixel."""
    height, width = images.shape[2:]
    keep = np.ones((len(images), 1, height, width), dtype=np.float32)
    geometry = rects.cpu().numpy()
    for free, values, blocks in zip(keep[:, 0], attention.cpu().numpy(), geometry, strict=True):
        n = 0
        for i in np.argsort(-values.ravel(), kind="stable"):
            y, x = divmod(int(i), width)
            if n == len(blocks):
                break
            if free[y, x]:
                h, w, above, before = (int(v) for v in blocks[n])
                free[max(y - above, 0) : max(y + h - above, 0),
                     max(x - before, 0) : max(x + w - before, 0)] = 0  # fmt: skip
                n += 1
    return images * torch.from_numpy(keep).to(images)


# ---- Clustering


def torch_knn(x: Tensor, k: int, chunk: int = 1024) -> tuple[Tensor, Tensor]:
    """Blocks of the product, topk of each; the row itself is masked. [N, k] each."""
    values = torch.empty(len(x), k, dtype=x.dtype, device=x.device)
    indices = torch.empty(len(x), k, dtype=torch.int64, device=x.device)
    for first in range(0, len(x), chunk):
        part = x[first : first + chunk]
        scores = part @ x.T
        scores[:, first : first + len(part)].fill_diagonal_(-torch.inf)
        best = scores.topk(k)
        values[first : first + chunk], indices[first : first + chunk] = best
    return values, indices


def faiss_knn(k: int) -> Callable[[Tensor], Tensor]:
    """Faiss' exact inner-product search; the first column, the row itself, is dropped."""
    import faiss

    def search(x: Tensor) -> Tensor:
        faiss.omp_set_num_threads(torch.get_num_threads())
        rows = x.float().numpy()
        index = faiss.IndexFlatIP(rows.shape[1])
        index.add(rows)
        return torch.from_numpy(index.search(rows, k + 1)[0][:, 1:])

    return search


def hnsw_knn(k: int) -> Callable[[Tensor], Tensor]:
    """hnswlib, building included, M 16 and ef 2 k: approximate."""
    import hnswlib

    def search(x: Tensor) -> Tensor:
        index = hnswlib.Index("ip", x.shape[1])
        index.init_index(len(x), M=16, ef_construction=2 * k, random_seed=1)
        index.set_num_threads(torch.get_num_threads())
        index.add_items(x.float().numpy())
        index.set_ef(2 * k)
        return torch.from_numpy(1 - index.knn_query(x.float().numpy(), k + 1)[1][:, 1:])

    return search


def csr_mean(x: Tensor, indptr: Tensor, indices: Tensor) -> Tensor:
    """A sparse matrix with rows that sum to 1, made each time, times x."""
    degree = indptr.diff()
    weights = torch.repeat_interleave(1 / degree.to(x.dtype), degree)
    shape = (len(degree), len(x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the layout is in beta
        graph = torch.sparse_csr_tensor(indptr, indices, weights, shape, check_invariants=False)
    return graph @ x


def gather_mean(k: int, x: Tensor, indptr: Tensor, indices: Tensor) -> Tensor:
    """Where every row has k neighbours: a gather and a mean."""
    return x[indices].view(-1, k, x.shape[1]).mean(1)


def scatter_mean(x: Tensor, indptr: Tensor, indices: Tensor) -> Tensor:
    """As graph libraries do: a message per edge, added up at its row."""
    degree = indptr.diff()
    rows = torch.repeat_interleave(torch.arange(len(degree), device=x.device), degree)
    total = x.new_zeros(len(degree), x.shape[1]).index_add(0, rows, x[indices])
    return total / degree.unsqueeze(1)


def linkage_weights(d: int, device: torch.device) -> Any:
    """A linkage network of the published size with random weights."""
    from facekernels.ops import LinkageWeights

    shapes: list[tuple[int, ...]] = [(d,), (d,)]
    for inputs, outputs in ((d, 512), (512, 512), (512, 256), (256, 256)):
        shapes += [(2 * inputs, outputs), (outputs,)]
    shapes += [(256, 256), (256,), (256,), (2, 256), (2,)]
    weights = [torch.randn(s, device=device) * (s[0] ** -0.5) for s in shapes]
    weights[1] = weights[1].square() + 0.1
    return LinkageWeights(*weights)


def _dense_scores(batch: Any, weights: Any) -> Tensor:
    x = (batch.features - weights.mean) / torch.sqrt(weights.variance + 1e-5)
    for i in range(1, 5):
        w, b = getattr(weights, f"conv{i}_weight"), getattr(weights, f"conv{i}_bias")
        x = torch.relu(torch.cat((x, batch.adjacency @ x), -1) @ w + b)
    chosen = batch.one_hop.unsqueeze(-1).expand(-1, -1, x.shape[-1])
    hidden = F.linear(x.gather(1, chosen), weights.hidden_weight, weights.hidden_bias)
    hidden = F.prelu(hidden.transpose(1, 2), weights.slope).transpose(1, 2)
    return torch.softmax(F.linear(hidden, weights.output_weight, weights.output_bias), -1)[..., 1]


def dense_linkage(
    x: Tensor, knn: Tensor, pivots: Tensor, weights: Any, hops: tuple[int, int], links: int
) -> Tensor:
    """Our subgraphs, padded to the largest of a batch of 16, through the dense network."""
    from facekernels.ops import pivot_subgraphs

    parts = []
    for part in pivots.split(16):
        batch = pivot_subgraphs(knn, part, hops, links).dense(x)
        parts.append(_dense_scores(batch, weights))
    return torch.cat(parts)


def published_subgraphs(
    knn: Tensor, pivots: Tensor, hops: tuple[int, int], links: int
) -> list[tuple[Array, Array, Array]]:
    """Nodes, dense adjacency and one-hop positions of each pivot, in the published way.

    Membership in the subgraph is looked up in an array, neighbour by neighbour.
    """
    graph = knn.numpy()
    batch = []
    for pivot in pivots.tolist():
        hop = set(graph[pivot, : hops[0]].tolist())
        inside = hop | {pivot}
        for h in hop:
            inside |= set(graph[h, : hops[1]].tolist())
        nodes = np.array(sorted(inside))
        position = {node: i for i, node in enumerate(nodes.tolist())}
        adjacency = np.zeros((len(nodes), len(nodes)), dtype=np.float32)
        for node in nodes.tolist():
            for neighbor in graph[node, :links]:
                if neighbor in nodes:
                    a, b = position[node], position[int(neighbor)]
                    adjacency[a, b] = adjacency[b, a] = 1
        adjacency /= adjacency.sum(1, keepdims=True)
        batch.append((nodes, adjacency, np.array([position[h] for h in sorted(hop)])))
    return batch


def published_linkage(
    x: Tensor, knn: Tensor, pivots: Tensor, weights: Any, hops: tuple[int, int], links: int
) -> Tensor:
    """Subgraphs in Python, padded to the largest possible, batches of 16 in the dense network."""
    from facekernels.ops import DenseSubgraphs

    size = hops[0] * (hops[1] + 1) + 1
    parts = []
    for part in pivots.split(16):
        features = x.new_zeros(len(part), size, x.shape[1])
        adjacency = x.new_zeros(len(part), size, size)
        one_hop = []
        for i, (nodes, links_of, hop) in enumerate(published_subgraphs(knn, part, hops, links)):
            n = len(nodes)
            features[i, :n] = x[nodes] - x[part[i]]
            adjacency[i, :n, :n] = torch.from_numpy(links_of)
            one_hop.append(hop)
        chosen = torch.from_numpy(np.stack(one_hop))
        batch = DenseSubgraphs(features, adjacency, chosen, chosen)
        parts.append(_dense_scores(batch, weights))
    return torch.cat(parts)


def _unique_counts(true: Array, pred: Array) -> tuple[Any, ...]:
    """Pairs of labels that occur, how often, and sizes of identities and clusters."""
    pairs, counts = np.unique(np.stack((true, pred), 1), axis=0, return_counts=True)
    return pairs, counts, np.unique(true, return_counts=True), np.unique(pred, return_counts=True)


def unique_bcubed_f(true: Array, pred: Array) -> tuple[float, float, float]:
    """Precision, recall and F as they are written with np.unique."""
    pairs, counts, (ids, sizes), (clusters, found) = _unique_counts(true, pred)
    squares = counts.astype(np.float64) ** 2
    p = (squares / found[np.searchsorted(clusters, pairs[:, 1])]).sum() / len(true)
    r = (squares / sizes[np.searchsorted(ids, pairs[:, 0])]).sum() / len(true)
    return p, r, 2 * p * r / (p + r)


def unique_pairwise_f(true: Array, pred: Array) -> tuple[float, float, float]:
    """Precision, recall and F as they are written with np.unique."""
    _, counts, (_, sizes), (_, found) = _unique_counts(true, pred)
    together, of_clusters, of_ids = ((n * (n - 1)).sum() for n in (counts, found, sizes))
    p, r = together / of_clusters, together / of_ids
    return p, r, 2 * p * r / (p + r)


def scipy_components(nodes: int, threshold: float | None) -> Callable[[Tensor, Tensor], Array]:
    """SciPy's, with the selection and the matrix it needs."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    def components(edges: Tensor, scores: Tensor) -> Array:
        pairs = edges.numpy()
        if threshold is not None:
            pairs = pairs[scores.numpy() >= threshold]
        ones = np.ones(len(pairs), dtype=np.float32)
        graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(nodes, nodes))
        return connected_components(graph, directed=False)[1]

    return components
