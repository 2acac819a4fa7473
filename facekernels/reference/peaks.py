"""Plain PyTorch of the `peaks` family: the oracle of the kernels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def heatmap_peaks(
    heatmaps: Tensor,
    *,
    kernel: int = 3,
    threshold: float = 0.0,
    topk: int = 100,
    strict: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Heatmaps [B, K, H, W] -> xy [B, K, topk, 2], score and index [B, K, topk], count [B, K]."""
    height, width = heatmaps.shape[2:]
    # float64 holds every other dtype, so the comparison with the threshold is exact.
    h = torch.where(heatmaps.isnan(), -torch.inf, heatmaps).to(torch.float64)
    radius = min(kernel // 2, max(height, width))
    side = 2 * radius + 1
    padded = F.pad(h, (radius, radius, radius, radius), value=-torch.inf)
    around = padded.unfold(2, side, 1).unfold(3, side, 1)
    if strict:
        others = torch.ones(side, side, dtype=torch.bool, device=h.device)
        others[radius, radius] = False
        around = torch.where(others, around, -torch.inf)
    best = around.amax((-2, -1))
    is_peak = (h > threshold) & ((h > best) if strict else (h >= best))

    flat = torch.where(is_peak, h, -torch.inf).flatten(2)
    order = flat.argsort(dim=2, descending=True, stable=True)[:, :, :topk]
    order = F.pad(order, (0, topk - order.shape[2]))
    count = is_peak.sum((2, 3)).clamp(max=topk)
    found = torch.arange(topk, device=h.device) < count.unsqueeze(2)
    exact = torch.float64 if heatmaps.dtype is torch.float64 else torch.float32
    xy = torch.stack((order % width, torch.div(order, width, rounding_mode="floor")), -1)
    return (
        torch.where(found.unsqueeze(3), xy, -1).to(exact),
        torch.where(found, heatmaps.flatten(2).gather(2, order), 0),
        torch.where(found, order, -1),
        count,
    )
