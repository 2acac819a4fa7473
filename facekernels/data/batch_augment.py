"""Augmentation of a whole batch at once, on any device, every image by its own key."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from facekernels.data.keyed_random import uniform


@dataclass
class BatchAugment:
    """Mirror, small similarity transform, colour jitter, erased rectangle.

    Args:
        flip: probability of the horizontal mirror.
        rotate: largest rotation, degrees.
        scale: largest relative change of size.
        shift: largest shift, as a part of the side.
        jitter: largest relative change of brightness, contrast and saturation.
        erase: probability of one rectangle of noise over 2 to 25 % of the image.
    """

    flip: float = 0.5
    rotate: float = 10.0
    scale: float = 0.1
    shift: float = 0.06
    jitter: float = 0.4
    erase: float = 0.25

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """Augment ``[B, 3, H, W]`` float images in [0, 1] by ``[B]`` int64 keys."""
        u = uniform(keys, 14)[..., None, None, None]
        images = self._moved(images, u)
        if self.jitter:
            images = self._coloured(images, u)
        return self._erased(images, u, keys) if self.erase else images

    def _moved(self, images: Tensor, u: Tensor) -> Tensor:
        signed = 2 * u[:, :5, 0, 0, 0] - 1
        mirror = 1 - 2 * (u[:, 5, 0, 0, 0] < self.flip).to(images.dtype)
        angle = signed[:, 0] * math.radians(self.rotate)
        size = 1 + signed[:, 1] * self.scale
        cos, sin = angle.cos() * size, angle.sin() * size
        row_x = torch.stack([cos * mirror, -sin, signed[:, 2] * 2 * self.shift], 1)
        row_y = torch.stack([sin * mirror, cos, signed[:, 3] * 2 * self.shift], 1)
        matrix = torch.stack([row_x, row_y], 1).to(images.dtype)
        grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)

    def _coloured(self, images: Tensor, u: Tensor) -> Tensor:
        brightness, contrast, saturation = (1 + self.jitter * (2 * u[:, i] - 1) for i in (6, 7, 8))
        images = images * brightness
        mean = images.mean((1, 2, 3), keepdim=True)
        images = mean + (images - mean) * contrast
        grey = images.mean(1, keepdim=True)
        return (grey + (images - grey) * saturation).clamp(0, 1)

    def _erased(self, images: Tensor, u: Tensor, keys: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        area = 0.02 + 0.23 * u[:, 9]
        aspect = torch.exp((2 * u[:, 10] - 1) * math.log(3.0))
        h = (area * aspect).sqrt().clamp(max=1.0)
        w = (area / aspect).sqrt().clamp(max=1.0)
        top, left = u[:, 11] * (1 - h), u[:, 12] * (1 - w)
        y = (torch.arange(height, device=images.device)[:, None] + 0.5) / height
        x = (torch.arange(width, device=images.device) + 0.5) / width
        inside = (y >= top) & (y < top + h) & (x >= left) & (x < left + w)
        noise = uniform(keys ^ _NOISE, images[0].numel()).view_as(images).to(images.dtype)
        return torch.where(inside & (u[:, 13] < self.erase), noise, images)


# Another stream of numbers under the same key.
_NOISE = 0x5DEECE66D
