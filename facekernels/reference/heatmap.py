"""Plain PyTorch of the `heatmap` family: the published full-map algorithms, one step after the
other. The oracle of the kernels (in float64), and the only path for transforms of torch.func.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Result = tuple[Tensor, Tensor, Tensor]  # xy, score, valid


def gaussian_taps(kernel: int, sigma: float | None = None) -> list[float]:
    """The blur's weights. Without `sigma`, OpenCV's: small sizes are tabulated there."""
    tables = {
        3: [1, 2, 1],
        5: [1, 4, 6, 4, 1],
        7: [2, 7, 14, 18, 14, 7, 2],
        9: [4, 13, 30, 51, 60, 51, 30, 13, 4],
    }
    if sigma is None and kernel in tables:
        weights = [float(w) for w in tables[kernel]]
    else:
        s = 0.3 * ((kernel - 1) * 0.5 - 1) + 0.8 if sigma is None else sigma
        weights = [math.exp(-((i - kernel // 2) ** 2) / (2 * s * s)) for i in range(kernel)]
    return [w / sum(weights) for w in weights]


def _extended(x: Tensor, dim: int, margin: int, border: str) -> Tensor:
    """Add `margin` elements on both sides: zeros, or "reflect" (cba|abc) or "reflect101"."""
    size = x.shape[dim]
    position = torch.arange(-margin, size + margin, device=x.device)
    if border == "zero":
        index = position.clamp(0, size - 1)
        shape = [1] * x.ndim
        shape[dim] = -1
        return x.index_select(dim, index).where((position == index).view(shape), 0)
    period = 2 * size if border == "reflect" else max(2 * size - 2, 1)
    index = position.remainder(period)
    mirrored = period - 1 - index if border == "reflect" else period - index
    return x.index_select(dim, index.where(index < size, mirrored))


def _weighted(wide: Tensor, dim: int, taps: list[float]) -> Tensor:
    """The taps' sum along `dim`. Values at equal distance from the centre are added first, so that
    a symmetric map has a symmetric blur.
    """
    size, last = wide.shape[dim] - len(taps) + 1, len(taps) - 1
    total = taps[last // 2] * wide.narrow(dim, last // 2, size)
    for t in range(last // 2):
        total = total + taps[t] * (wide.narrow(dim, t, size) + wide.narrow(dim, last - t, size))
    return total


def blur(maps: Tensor, taps: list[float], border: str = "zero", margin: int = 0) -> Tensor:
    """Maps [..., H, W] -> blurred [..., H + 2 margin, W + 2 margin], separably, rows first."""
    for dim in (-2, -1):
        dim += maps.ndim
        maps = _weighted(_extended(maps, dim, len(taps) // 2 + margin, border), dim, taps)
    return maps


def _scipy_blur(maps: Tensor, kernel: int) -> Tensor:
    """Scipy's gaussian_filter: each axis in float64, rounded to the maps' dtype."""
    taps = gaussian_taps(kernel, 0.8)
    for dim in (-2, -1):
        dim += maps.ndim
        wide = _extended(maps.double(), dim, kernel // 2, "reflect")
        maps = _weighted(wide, dim, taps).to(maps.dtype)
    return maps


def peaks(maps: Tensor, nan_wins: bool) -> tuple[Tensor, Tensor]:
    """Maps [..., N] -> maximum and its first position. A NaN loses, or wins as in NumPy."""
    nan = maps.isnan()
    comparable = maps.where(~nan, -math.inf)
    value = comparable.amax(-1)
    hit = (comparable == value.unsqueeze(-1)) & ~nan
    if nan_wins:
        hit = torch.where(nan.any(-1, keepdim=True), nan, hit)
        value = value.where(~nan.any(-1), math.nan)
    value = value.where(~nan.all(-1), math.nan)
    position = torch.arange(maps.shape[-1], device=maps.device)
    index = position.where(hit, maps.shape[-1]).amin(-1)
    return value, index.where(index < maps.shape[-1], 0)


def _newton(dx: Tensor, dy: Tensor, dxx: Tensor, dxy: Tensor, dyy: Tensor) -> Tensor:
    # The Hessian is inverted in float64, as NumPy does for the peers.
    dx, dy, dxx, dxy, dyy = (t.double() for t in (dx, dy, dxx, dxy, dyy))
    det = dxx * dyy - dxy * dxy
    return -torch.stack((dyy * dx - dxy * dy, dxx * dy - dxy * dx), -1) / det.unsqueeze(-1)


def _dark_offset(log_maps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    height, width = log_maps.shape[-2:]

    def at(i: int, j: int) -> Tensor:
        column, row = (x + i).clamp(0, width - 1), (y + j).clamp(0, height - 1)
        return log_maps.flatten(-2).gather(-1, (row * width + column).unsqueeze(-1)).squeeze(-1)

    center = at(0, 0)
    dx, dy = (at(1, 0) - at(-1, 0)) / 2, (at(0, 1) - at(0, -1)) / 2
    dxx = (at(2, 0) - 2 * center + at(-2, 0)) / 4
    dyy = (at(0, 2) - 2 * center + at(0, -2)) / 4
    dxy = (at(1, 1) - at(-1, 1) - at(1, -1) + at(-1, -1)) / 4
    offset = _newton(dx, dy, dxx, dxy, dyy)
    applies = (x > 1) & (x < width - 2) & (y > 1) & (y < height - 2)
    return offset.where((applies & (dxx * dyy - dxy * dxy != 0)).unsqueeze(-1), 0.0)


def _udp_offset(log_maps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    height, width = log_maps.shape[-2:]

    def at(i: int, j: int) -> Tensor:
        column, row = (x + i).clamp(0, width - 1), (y + j).clamp(0, height - 1)
        return log_maps.flatten(-2).gather(-1, (row * width + column).unsqueeze(-1)).squeeze(-1)

    return _udp_step(at(0, 0), at(1, 0), at(-1, 0), at(0, 1), at(0, -1), at(1, 1), at(-1, -1))


def _udp_step(
    c: Tensor, x1: Tensor, x_1: Tensor, y1: Tensor, y_1: Tensor, x1y1: Tensor, x_1y_1: Tensor
) -> Tensor:
    dxx, dyy = x1 - 2 * c + x_1, y1 - 2 * c + y_1
    # The order of the sum matters where it is nothing but rounding (compat="vitpose").
    dxy = (x1y1 - x1 - y1 + c + c - x_1 - y_1 + x_1y_1) / 2
    eps = torch.finfo(torch.float32).eps
    return _newton((x1 - x_1) / 2, (y1 - y_1) / 2, dxx.double() + eps, dxy, dyy.double() + eps)


def neighbor_offset(maps: Tensor, kernel: int) -> Tensor:
    """Transformers refines its "not found" (-1, -1) too, with values from the map before.

    maps [B, K, H, W] -> the offset [B, K, 2] such a joint gets. The position before the first
    pixel of a padded map is the last corner of the padded map before it.
    """
    radius = kernel // 2

    def corner(m: Tensor) -> Tensor:  # the blurred, logarithmic value at (0, 0)
        cut = m[..., : radius + 1, : radius + 1]
        return _scipy_blur(cut, kernel)[..., 0, 0].clamp(1e-3, 50).double().log().to(m.dtype)

    first = corner(maps)
    flat = maps.flatten(0, 1)
    before = flat.roll(1, 0).view_as(maps)
    last, left = corner(before.flip(-2, -1)), corner(before.flip(-2))
    return _udp_step(first, first, last, first, left, first, last)


def _quarter_offset(
    maps: Tensor, x: Tensor, y: Tensor, low: int, high: int, together: bool
) -> Tensor:
    height, width = maps.shape[-2:]

    def at(i: int, j: int) -> Tensor:
        column, row = (x + i).clamp(0, width - 1), (y + j).clamp(0, height - 1)
        return maps.flatten(-2).gather(-1, (row * width + column).unsqueeze(-1)).squeeze(-1)

    x_inside = (x > low) & (x < min(width - 1, high))
    y_inside = (y > low) & (y < min(height - 1, high))
    do_x = x_inside & (y_inside if together else (y > 0) & (y < height))
    do_y = y_inside & (x_inside if together else (x > 0) & (x < width))
    sign = torch.stack((torch.sign(at(1, 0) - at(-1, 0)), torch.sign(at(0, 1) - at(0, -1))), -1)
    return sign.where(torch.stack((do_x, do_y), -1), 0) / 4


def decode_heatmaps(
    heatmaps: Tensor,
    method: str = "dark",
    *,
    kernel: int = 11,
    threshold: float | None = None,
    invalid: tuple[float, float] = (-1.0, -1.0),
    clamp: bool = True,
    compat: str | None = None,
    radius_factor: float = 0.0546875,
) -> Result:
    """Heatmaps [B, K, H, W] -> xy [B, K, 2], score [B, K], valid [B, K]."""
    maps = heatmaps.detach()
    maps = maps if maps.dtype is torch.float64 else maps.float()
    all_maps = maps
    if method == "udp_combined":
        maps = all_maps[:, ::3]
    height, width = maps.shape[-2:]
    exact = compat is not None
    old_max, old_index = peaks(maps.flatten(2), exact)
    value, index = old_max, old_index

    # 1. The map in which the maximum is searched.
    searched = maps
    if method in ("megvii", "mspn", "udp_combined"):
        taps = gaussian_taps(2 * kernel + 1 if method == "udp_combined" else kernel)
        border = "reflect101" if method == "udp_combined" else "zero"
        margin = kernel // 2 if method == "mspn" else 0
        searched = blur(maps, taps, border, margin)
        wide = width + 2 * margin
        value, outside = peaks(searched.flatten(2), exact)
        if method == "megvii":
            value = old_max / value * value
            lost = value.isnan()
            outside = outside.where(~lost, 0 if exact else old_index)
            value = value.where(~lost, math.nan if exact else old_max)
        column = (outside % wide - margin).clamp(0, width - 1)
        row = (outside // wide - margin).clamp(0, height - 1)
        index = row * width + column
    x = index % width
    y = index // (height if compat == "face_alignment" else width)

    # 2. Joints without a maximum.
    positive = value > 0
    found = positive
    fallback: tuple[float, float] = invalid
    if compat in ("mmpose", "megvii"):
        found = ~(value <= 0)
        fallback = (math.nan, math.nan) if method == "udp" else (-1.0, -1.0)
    elif compat == "vitpose":
        fallback = (-1.0, -1.0)
    elif compat == "face_alignment":
        found = torch.ones_like(positive)
    elif exact:
        fallback = (0.0, 0.0)
    if compat == "udp" and method == "udp":
        x, y, found = x.where(positive, 0), y.where(positive, 0), torch.ones_like(positive)
    xy = torch.stack((x, y), -1).to(maps.dtype)
    xy = xy.where(found.unsqueeze(-1), xy.new_tensor(fallback))

    # 3. Refinement.
    offset = torch.zeros_like(xy)
    if method == "shift":
        low, high = (0, 63) if compat == "face_alignment" else (1, 1 << 30)
        offset = _quarter_offset(maps, x, y, low, high, compat != "mmpose")
    elif method == "megvii":
        offset = _quarter_offset(searched, x, y, 1, 1 << 30, True)
        inside = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
        offset = offset + 0.5 * inside.unsqueeze(-1)
    elif method in ("dark", "udp"):
        low_value, high_value = (1e-10, math.inf) if method == "dark" else (1e-3, 50.0)
        if compat == "vitpose":
            blurred = _scipy_blur(maps, kernel)
        elif compat == "udp":
            blurred = blur(maps, gaussian_taps(kernel), "reflect101")
        else:
            blurred = blur(maps, gaussian_taps(kernel))
            new_max, _ = peaks(blurred.flatten(2), exact)
            blurred = blurred * (old_max / new_max)[..., None, None]
        log_maps = blurred.clamp(low_value, high_value).log()
        step = _dark_offset if method == "dark" else _udp_offset
        offset = step(log_maps, x, y).to(xy.dtype)
    elif method == "mspn":
        first = outside
        rest = searched.flatten(2).scatter(2, first.unsqueeze(-1), -math.inf)
        _, second = peaks(rest, exact)
        away = torch.stack((second % wide - first % wide, second // wide - first // wide), -1)
        away = away.to(xy.dtype)
        length = away.norm(dim=-1, keepdim=True)
        offset = (0.25 * away / length).where(length > 0, 0)
    elif method == "udp_combined":
        scale = radius_factor * (height if compat == "udp" else max(height, width))
        stack = torch.stack((all_maps[:, 1::3], all_maps[:, 2::3]), -1).flatten(2, 3) * scale
        offset = stack.gather(2, index[..., None, None].expand(*index.shape, 1, 2)).squeeze(2)
        if compat == "mmpose":
            # (-1, -1) counts back into the maps of the joint before.
            before = stack.roll(1, 1)[:, :, max(height * width - width - 1, 0)]
            offset = offset.where(found.unsqueeze(-1), before)
            found = torch.ones_like(found)
    if not exact:
        reach = radius_factor * max(height, width) if method == "udp_combined" else 1.0
        finite = offset.isfinite() & value.isfinite().unsqueeze(-1)
        offset = offset.where(finite, 0).clamp(-reach, reach)
    offset = offset.where(found.unsqueeze(-1), 0)
    if compat == "vitpose":
        offset = offset.where(found.unsqueeze(-1), neighbor_offset(maps, kernel).to(offset.dtype))
    xy = xy + offset

    # 4. Score, half pixels, contract.
    last = xy.new_tensor((width - 1, height - 1))
    score = value
    if method == "mspn":
        xy = xy.clamp(min=xy.new_zeros(2), max=last)
        at = xy.nan_to_num().round().long()
        score = maps.flatten(2).gather(2, (at[..., 1] * width + at[..., 0]).unsqueeze(-1))[..., 0]
    if method == "mspn" or compat == "face_alignment":
        xy = xy + 0.5
    if method in ("megvii", "mspn"):
        score = score / 255 + 0.5
    valid = positive & (score > (-math.inf if threshold is None else threshold))
    if not exact:
        if clamp:
            xy = xy.clamp(min=xy.new_zeros(2), max=last)
        xy = xy.where(valid.unsqueeze(-1), xy.new_tensor(invalid))
    return xy, score, valid


def decode_simcc(
    x: Tensor,
    y: Tensor,
    *,
    split: float = 2.0,
    method: str = "argmax",
    kernel: int = 11,
    threshold: float | None = None,
    invalid: tuple[float, float] = (-1.0, -1.0),
    clamp: bool = True,
    compat: str | None = None,
) -> Result:
    """X [B, K, Nx], y [B, K, Ny] -> xy [B, K, 2], score [B, K], valid [B, K]."""
    exact = compat is not None
    bins, maxima = [], []
    for line in (x, y):
        line = line.detach()
        line = line if line.dtype is torch.float64 else line.float()
        value, index = peaks(line, exact)
        position = index.to(line.dtype)
        if method == "dark":
            size = line.shape[-1]
            wide = _extended(line, line.ndim - 1, kernel // 2, "zero")
            blurred = _weighted(wide, line.ndim - 1, gaussian_taps(kernel))
            blurred = blurred * (value / peaks(blurred, exact)[0]).unsqueeze(-1)
            log_line = blurred.clamp(1e-3, 50).log()
            patch = torch.stack(
                [
                    log_line.gather(-1, (index + i).clamp(0, size - 1).unsqueeze(-1)).squeeze(-1)
                    for i in range(-2, 3)
                ]
            )
            slope = (patch[3] - patch[1]) / 2
            step = -slope / (1e-9 + (patch[4] - 2 * patch[2] + patch[0]) / 4)
            if not exact:
                step = step.where(step.isfinite(), 0).clamp(-1, 1)
            position = position + step
        if not exact and clamp:
            position = position.clamp(0, line.shape[-1] - 1)
        bins.append(position / split)
        maxima.append(value)
    score = maxima[1].where(maxima[0] > maxima[1], maxima[0])
    positive = (maxima[0] > 0) & (maxima[1] > 0)
    valid = positive & (score > (-math.inf if threshold is None else threshold))
    xy = torch.stack(bins, -1)
    if exact:
        lost = math.nan if method == "dark" else -1 / split
        xy = xy.where(~(score <= 0).unsqueeze(-1), lost)
    else:
        xy = xy.where(valid.unsqueeze(-1), xy.new_tensor(invalid))
    return xy, score, valid
