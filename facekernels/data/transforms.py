"""Transforms of single images for `ImageListDataset`, and the published combination of them.

A transform is called with an image and a `torch.Generator`, from which it draws all that is random;
with None for the generator, random steps leave the image as it is. Images are ``[3, H, W]`` uint8
RGB up to `Normalise`, float32 from there on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from facekernels.data import image_ops
from facekernels.data.image_list import Transform


class Compose:
    """Transforms one after the other, which share the generator.

    Args:
        transforms: in their order.
    """

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = list(transforms)

    def __call__(self, image: Tensor, generator: Generator | None = None) -> Tensor:
        for transform in self.transforms:
            image = transform(image, generator)
        return image


def central_square(images: Tensor) -> Tensor:
    """The largest square in the middle of ``[..., H, W]``."""
    side = min(images.shape[-2:])
    top, left = ((length - side) // 2 for length in images.shape[-2:])
    return images[..., top : top + side, left : left + side]


class Resize:
    """Change the size, with antialiasing.

    Args:
        size: side in pixels.
        mode: bilinear or bicubic.
        crop: cut the central square out first, instead of changing the aspect ratio.
    """

    def __init__(
        self, size: int, mode: Literal["bilinear", "bicubic"] = "bilinear", crop: bool = False
    ) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        self.size, self.mode, self.crop = size, mode, crop

    def __call__(self, image: Tensor, generator: Generator | None = None) -> Tensor:
        if self.crop:
            image = central_square(image)
        if image.shape[-2:] == (self.size, self.size):
            return image
        return F.interpolate(image[None], (self.size, self.size), mode=self.mode, antialias=True)[0]


class HorizontalFlip:
    """Mirror with this probability."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = _probability(p)

    def __call__(self, image: Tensor, generator: Generator | None = None) -> Tensor:
        return image.flip(-1) if _happens(self.p, generator) else image


class ColourJitter:
    """Brightness, contrast and saturation by factors in 1 - amount to 1 + amount, in random order.

    Args:
        amount: in [0, 1].
    """

    def __init__(self, amount: float = 0.4) -> None:
        self.amount = _probability(amount, "amount")

    def __call__(self, image: Tensor, generator: Generator | None = None) -> Tensor:
        if generator is None:
            return image
        steps = (image_ops.brightness, image_ops.contrast, image_ops.color)
        for i in torch.randperm(3, generator=generator).tolist():
            image = steps[i](image, _uniform(1 - self.amount, 1 + self.amount, generator))
        return image


class RandAugment:
    """timm's ``rand-m9-mstd0.5-inc1``: two of 15 operations, each done with probability 0.5.

    Drawn with equal odds, with replacement: auto-contrast, equalise, invert, rotate, posterise,
    solarise, solarise-add, colour, contrast, brightness, sharpness, shear in x and y, translate in
    x and y (up to 0.45 of the side). All 15 of timm's "increasing" list are there, with its
    magnitudes. Same distribution, other random numbers; bicubic sampling differs slightly (see
    `image_ops`).

    Args:
        magnitude: mean strength, 0 to 10.
        std: its standard deviation; the strength is cut off at 0 and 10.
        count: operations per image.

    Source: Cubuk et al., RandAugment, NeurIPS 2020; the names and ranges are timm's.
    """

    def __init__(self, magnitude: float = 9, std: float = 0.5, count: int = 2) -> None:
        if not 0 <= magnitude <= 10 or std < 0 or count < 0:
            raise ValueError(
                "magnitude must lie in [0, 10], std and count be at least 0, got "
                f"{magnitude}, {std} and {count}"
            )
        self.magnitude, self.std, self.count = magnitude, std, count

    def __call__(self, image: Tensor, generator: Generator | None = None) -> Tensor:
        if generator is None:
            return image
        for i in torch.randint(len(OPERATIONS), (self.count,), generator=generator).tolist():
            if _happens(0.5, generator):
                noise = float(torch.randn((), generator=generator))
                level = min(max(self.magnitude + self.std * noise, 0.0), 10.0) / 10
                sign = -1 if _happens(0.5, generator) else 1
                image = operate(image, OPERATIONS[i], level, sign)
        return image


OPERATIONS: tuple[str, ...] = (
    "auto_contrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add",
    "color", "contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x",
    "translate_y",
)  # fmt: skip
"""What `RandAugment` draws from: functions of `image_ops`."""


def operate(image: Tensor, name: str, level: float, sign: int) -> Tensor:
    """One of `OPERATIONS` with a strength in [0, 1], which `sign` turns round where it can be."""
    factor = max(0.1, 1 + sign * 0.9 * level)
    arguments: dict[str, tuple[float, ...]] = {
        "rotate": (sign * 30 * level,),
        "posterize": (4 - int(4 * level),),
        "solarize": (256 - int(256 * level),),
        "solarize_add": (min(128, int(110 * level)),),
        **dict.fromkeys(("color", "contrast", "brightness", "sharpness"), (factor,)),
        **dict.fromkeys(("shear_x", "shear_y"), (sign * 0.3 * level,)),
        **dict.fromkeys(("translate_x", "translate_y"), (sign * 0.45 * level,)),
    }
    result: Tensor = getattr(image_ops, name)(image, *arguments.get(name, ()))
    return result


class Normalise:
    """uint8 to float32: ``(image / 255 - 0.5) / 0.5``, in [-1, 1]."""

    def __call__(self, image: Tensor, generator: Generator | None = None) -> Tensor:
        return image.float().div(255).sub(0.5).div(0.5)


class RandomErasing:
    """Put standard normal noise into one rectangle ("pixel" mode); for normalised images.

    Args:
        p: probability.
        area: least and largest part of the image.
        aspect: least ratio of the sides; the largest is its inverse. Logarithms are uniform.

    A rectangle as high or wide as the image is drawn anew, up to ten times.

    Source: Zhong et al., Random Erasing Data Augmentation, AAAI 2020; the defaults are timm's.
    """

    def __init__(
        self, p: float = 0.25, area: tuple[float, float] = (0.02, 1 / 3), aspect: float = 0.3
    ) -> None:
        self.p, self.area, self.aspect = _probability(p), area, aspect

    def __call__(self, image: Tensor, generator: Generator | None = None) -> Tensor:
        if generator is None or not _happens(self.p, generator):
            return image
        if not image.dtype.is_floating_point:
            raise TypeError(f"image must be normalised before RandomErasing, got {image.dtype}")
        height, width = image.shape[-2:]
        bound = math.log(self.aspect)
        for _ in range(10):
            area = _uniform(*self.area, generator) * height * width
            ratio = math.exp(_uniform(bound, -bound, generator))
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if h < height and w < width:
                top, left = (
                    int(torch.randint(free + 1, (), generator=generator))
                    for free in (height - h, width - w)
                )
                image = image.clone()
                noise = torch.randn(image.shape[0], h, w, generator=generator)
                image[:, top : top + h, left : left + w] = noise
                return image
        return image


def analysis_transform(size: int = 112) -> Compose:
    """Augmentation of SwinFace's analysis data and of MEK: what their timm settings come to.

    Central square, bicubic; mirror; RandAugment; normalised; a rectangle erased with p = 0.25.
    Their colour jitter of 0.4 has no effect: timm leaves it out where RandAugment is on.
    """
    return Compose([Resize(size, "bicubic", crop=True), HorizontalFlip(), RandAugment(),
                    Normalise(), RandomErasing()])  # fmt: skip


def erasing_transform(size: int = 224) -> Compose:
    """Augmentation of EAC, whose recipe MEK's ResNets follow: 2 to 25 % of the image erased.

    That range is its code's. The central square, mirror and p = 0.5 are usual and not confirmed.
    """
    return Compose([Resize(size, crop=True), HorizontalFlip(), Normalise(),
                    RandomErasing(0.5, (0.02, 0.25))])  # fmt: skip


def evaluation_transform(size: int = 112) -> Compose:
    """Central square, bilinear; normalised: what both evaluate with, of images that are square."""
    return Compose([Resize(size, crop=True), Normalise()])


def _probability(value: float, name: str = "p") -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in [0, 1], got {value}")
    return value


def _happens(p: float, generator: Generator | None) -> bool:
    return generator is not None and float(torch.rand((), generator=generator)) < p


def _uniform(low: float, high: float, generator: Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))
