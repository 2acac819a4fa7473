"""Random numbers as a pure function of a key and a name.

Sample i gets the same numbers whatever else is drawn with it, and a new name changes no other
draw.
"""

from __future__ import annotations

from zlib import crc32

import torch
from torch import Tensor

from facekernels.data.keyed_random import GAMMA, MIX_2, mix, shift


def keys(seed: int, counters: Tensor, stream: str) -> Tensor:
    """``[n]`` int64 keys of `counters` under `seed`; streams are independent of each other."""
    start = torch.tensor(seed, dtype=torch.int64) * MIX_2 + crc32(stream.encode())
    return mix(mix(start) + counters * GAMMA)


def bits(key: Tensor, name: str) -> Tensor:
    """64 random bits per key."""
    return mix(key + (crc32(name.encode()) * 0x9E3779B1 & (1 << 63) - 1))


def uniform(key: Tensor, name: str, low: float = 0.0, high: float = 1.0) -> Tensor:
    """``[n]`` float32, uniform in [low, high)."""
    u = shift(bits(key, name), 40).float() * 2.0**-24
    return u * (high - low) + low


def bell(key: Tensor, name: str) -> Tensor:
    """``[n]`` float32 in (-1, 1), triangular around 0: bounded, unlike a normal variable."""
    raw = bits(key, name)
    return (shift(raw, 40).float() - (raw & 0xFFFFFF).float()) * 2.0**-24


def chance(key: Tensor, name: str, probability: Tensor | float) -> Tensor:
    """``[n]`` bool, true with `probability`; for one key it only rises with `probability`."""
    return uniform(key, name) < probability


def pixel_noise(key: Tensor, channels: int, size: int) -> Tensor:
    """``[n, channels, size, size]`` float32 in (-1, 1), triangular, standard deviation 0.41."""
    at = torch.arange(channels * size * size, device=key.device)
    raw = mix(key[:, None] + at * GAMMA)
    noise = (shift(raw, 40).float() - (raw & 0xFFFFFF).float()) * 2.0**-24
    return noise.view(-1, channels, size, size)
