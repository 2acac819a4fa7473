"""Pictures of results, and images as networks take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from facekernels.data.transforms import central_square

_SIDE = 320
_LINE = 17


def as_input(images: Tensor, size: int) -> Tensor:
    """Face crops as the networks take them: ``[B, 3, size, size]`` float32 in [-1, 1].

    Args:
        images: ``[B, 3, H, W]`` RGB, uint8, or float in [0, 1]. The central square is taken, and
            resized with antialiasing.
        size: side that the network takes.

    Raises:
        TypeError: the images are neither uint8 nor floating point.
        ValueError: they are not ``[B, 3, H, W]``.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be [B, 3, H, W], got shape {tuple(images.shape)}")
    if images.dtype == torch.uint8:
        pixels = images.float() / 255
    elif images.is_floating_point():
        pixels = images.float()
    else:
        raise TypeError(f"images must be uint8 or floating point, got {images.dtype}")
    pixels = central_square(pixels)
    if pixels.shape[2] != size:
        pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    return pixels.sub(0.5).div(0.5)


def beside(image: Tensor, lines: Sequence[str]) -> Any:
    """A PIL image: the face ``[3, H, W]`` (uint8), enlarged, and lines of text to its right."""
    from PIL import Image, ImageDraw

    face = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    scale = _SIDE / max(face.size)
    face = face.resize((round(face.width * scale), round(face.height * scale)))
    height = max(face.height, _LINE * len(lines) + 16)
    sheet = Image.new("RGB", (face.width + 380, height), "white")
    sheet.paste(face, (0, 0))
    draw = ImageDraw.Draw(sheet)
    for i, line in enumerate(lines):
        draw.text((face.width + 12, 8 + _LINE * i), line, fill="#222222")
    return sheet
