"""Pillow's operations on 8-bit images, in torch: the ones that RandAugment draws from.

Every function takes and gives ``[3, H, W]`` uint8 RGB. Point operations, blends and the smoothing
filter give Pillow's values exactly; `affine` samples as Pillow does except for the constant of the
bicubic kernel (torch -0.75, Pillow -0.5).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


def invert(image: Tensor) -> Tensor:
    """``255 - image``."""
    return torch.bitwise_not(image)


def posterize(image: Tensor, bits: int) -> Tensor:
    """Keep the `bits` highest of the 8 bits, 0 to 8."""
    return torch.bitwise_and(image, 256 - (1 << (8 - bits)))


def solarize(image: Tensor, threshold: int) -> Tensor:
    """Invert the values from `threshold` on."""
    return torch.where(image.int() < threshold, image, image.bitwise_not())


def solarize_add(image: Tensor, amount: int) -> Tensor:
    """Brighten the values below 128."""
    brighter = (image.int() + amount).clamp(max=255).to(torch.uint8)
    return torch.where(image < 128, brighter, image)


def auto_contrast(image: Tensor) -> Tensor:
    """Stretch every channel to 0 .. 255."""
    low = image.amin((1, 2), keepdim=True).double()
    high = image.amax((1, 2), keepdim=True).double()
    scale = 255 / (high - low).clamp(min=1)
    stretched = (image.double() * scale - low * scale).clamp(0, 255).to(torch.uint8)
    return torch.where(high > low, stretched, image)


def equalize(image: Tensor) -> Tensor:
    """Flatten the histogram of every channel."""
    return torch.stack([_equalize_channel(channel) for channel in image])


def _equalize_channel(channel: Tensor) -> Tensor:
    counts = torch.bincount(channel.flatten(), minlength=256)
    last = int(counts[counts > 0][-1])
    step = (channel.numel() - last) // 255
    if step == 0:  # also where there is one value only
        return channel
    before = counts.cumsum(0) - counts
    table = ((step // 2 + before) // step).clamp(max=255).to(torch.uint8)
    return table[channel.int()]


def color(image: Tensor, factor: float) -> Tensor:
    """Saturation: 0 is grey, 1 the image."""
    return _blend(_grey(image).expand_as(image), image, factor)


def contrast(image: Tensor, factor: float) -> Tensor:
    """0 is the mean of the grey image everywhere, 1 the image."""
    mean = int(_grey(image).double().mean() + 0.5)
    return _blend(torch.full_like(image, mean), image, factor)


def brightness(image: Tensor, factor: float) -> Tensor:
    """0 is black, 1 the image."""
    return _blend(torch.zeros_like(image), image, factor)


def sharpness(image: Tensor, factor: float) -> Tensor:
    """0 is smoothed, 1 the image. Pixels of the border stay as they are."""
    kernel = torch.ones(3, 3)
    kernel[1, 1] = 5
    weights = (kernel / 13).expand(3, 1, 3, 3)
    inside = F.conv2d(image.float()[None], weights, groups=3)[0]
    smooth = image.clone()
    smooth[:, 1:-1, 1:-1] = (inside + 0.5).to(torch.uint8)
    return _blend(smooth, image, factor)


def shear_x(image: Tensor, factor: float) -> Tensor:
    """The row y below the top edge moves left by ``factor * y``."""
    return affine(image, ((1, factor, 0), (0, 1, 0)))


def shear_y(image: Tensor, factor: float) -> Tensor:
    """The column x right of the left edge moves up by ``factor * x``."""
    return affine(image, ((1, 0, 0), (factor, 1, 0)))


def translate_x(image: Tensor, part: float) -> Tensor:
    """Move left by a part of the width."""
    return affine(image, ((1, 0, part * image.shape[2]), (0, 1, 0)))


def translate_y(image: Tensor, part: float) -> Tensor:
    """Move up by a part of the height."""
    return affine(image, ((1, 0, 0), (0, 1, part * image.shape[1])))


def rotate(image: Tensor, degrees: float) -> Tensor:
    """Turn counter-clockwise about the centre."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    y, x = image.shape[1] / 2, image.shape[2] / 2
    return affine(image, ((cos, -sin, x - cos * x + sin * y), (sin, cos, y - sin * x - cos * y)))


Rows = tuple[tuple[float, float, float], tuple[float, float, float]]


def affine(
    image: Tensor, matrix: Rows, mode: Literal["bilinear", "bicubic"] = "bicubic", fill: int = 128
) -> Tensor:
    """Output point (x, y) shows input point ``matrix @ (x, y, 1)``; `fill` where there is none.

    Points are in pixels from the outer corner of the first one, whose centre is (0.5, 0.5).
    """
    height, width = image.shape[1:]
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], -1) @ torch.tensor(matrix).float().T
    grid = points / torch.tensor([width, height]) * 2 - 1
    moved = F.grid_sample(
        image.float()[None], grid[None], mode=mode, padding_mode="border", align_corners=False
    )[0]
    inside = (grid >= -1) & (grid < 1)
    return torch.where(inside.all(-1), moved.clamp(0, 255), fill).to(torch.uint8)


def _grey(image: Tensor) -> Tensor:
    red, green, blue = image.int()
    weighted = red * 19595 + green * 38470 + blue * 7471  # of 65536
    return torch.div(weighted + 32768, 65536, rounding_mode="floor").to(torch.uint8)


def _blend(zero: Tensor, one: Tensor, factor: float) -> Tensor:
    mixed = zero.float() + factor * (one.float() - zero.float())
    return mixed.clamp(0, 255).to(torch.uint8)
