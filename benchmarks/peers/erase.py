"""Erasing: blocks by rounds, and the n largest cells of a map."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


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
