"""What a camera does: low resolution, blur, noise. Only the samples that have it are touched."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from facekernels.data.faces import random
from facekernels.data.faces.parameters import FaceParameters


def degrade(images: Tensor, p: FaceParameters) -> None:
    """In place, in the order resolution, blur, noise."""
    _lower_resolution(images, p.resolution)
    _blur(images, p.blur)
    _noise(images, p)


def _lower_resolution(images: Tensor, resolution: Tensor) -> None:
    """Area averages at the effective size, bilinear back to the size of the image."""
    size = images.shape[-1]
    for small in resolution.unique().tolist():
        if 0 < small < size:
            rows = (resolution == small).nonzero()[:, 0]
            low = functional.adaptive_avg_pool2d(images[rows], small)
            images[rows] = functional.interpolate(
                low, (size, size), mode="bilinear", align_corners=False
            )


def _blur(images: Tensor, share: Tensor) -> None:
    """A separable kernel (1 - (t / 3 sigma)^2)^3, which is close to a Gaussian and ends."""
    rows = (share > 0).nonzero()[:, 0]
    if not len(rows):
        return
    size = images.shape[-1]
    reach = (share[rows] * (3 * size)).clamp(min=1e-3)
    taps = min(int(reach.max()), size - 1)
    weights = []
    total = torch.zeros_like(reach)
    for tap in range(-taps, taps + 1):
        x = tap / reach
        weight = (1 - x * x).clamp(min=0)
        weights.append(weight * weight * weight)
        total = total + weights[-1]
    picked = images[rows]
    for axis in (2, 3):
        pad = (0, 0, taps, taps) if axis == 2 else (taps, taps, 0, 0)
        padded = functional.pad(picked, pad, mode="replicate")
        picked = torch.zeros_like(picked)
        for tap, weight in enumerate(weights):
            picked += padded.narrow(axis, tap, size) * (weight / total)[:, None, None, None]
    images[rows] = picked


def _noise(images: Tensor, p: FaceParameters) -> None:
    """Independent per pixel and channel, and clipped to [0, 1]."""
    rows = (p.noise > 0).nonzero()[:, 0]
    if len(rows):
        noise = random.pixel_noise(p.key[rows], images.shape[1], images.shape[-1])
        scale = p.noise[rows] * 6**0.5  # of a triangular variable
        images[rows] = (images[rows] + noise * scale[:, None, None, None]).clamp(0, 1)
