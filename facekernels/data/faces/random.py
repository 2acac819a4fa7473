"""Random numbers as a pure function of a key and a name.

Sample i gets the same numbers whatever else is drawn with it, and a new name changes no other
draw. The mixing function is that of splitmix64.
"""

from __future__ import annotations

from zlib import crc32

import torch
from torch import Tensor

_GAMMA = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
_M1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_M2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """A bijection of int64 that changes half of the bits on average."""
    x = (x ^ _shift(x, 30)) * _M1
    x = (x ^ _shift(x, 27)) * _M2
    return x ^ _shift(x, 31)


def keys(seed: int, counters: Tensor, stream: str) -> Tensor:
    """``[n]`` int64 keys of `counters` under `seed`; streams are independent of each other."""
    start = torch.tensor(seed, dtype=torch.int64) * _M2 + crc32(stream.encode())
    return mix(mix(start) + counters * _GAMMA)


def bits(key: Tensor, name: str) -> Tensor:
    """64 random bits per key."""
    return mix(key + (crc32(name.encode()) * 0x9E3779B1 & (1 << 63) - 1))


def uniform(key: Tensor, name: str, low: float = 0.0, high: float = 1.0) -> Tensor:
    """``[n]`` float32, uniform in [low, high)."""
    u = _shift(bits(key, name), 40).float() * 2.0**-24
    return u * (high - low) + low


def bell(key: Tensor, name: str) -> Tensor:
    """``[n]`` float32 in (-1, 1), triangular around 0: bounded, unlike a normal variable."""
    raw = bits(key, name)
    return (_shift(raw, 40).float() - (raw & 0xFFFFFF).float()) * 2.0**-24


def chance(key: Tensor, name: str, probability: Tensor | float) -> Tensor:
    """``[n]`` bool, true with `probability`; for one key it only rises with `probability`."""
    return uniform(key, name) < probability


def pixel_noise(key: Tensor, channels: int, size: int) -> Tensor:
    """``[n, channels, size, size]`` float32 in (-1, 1), triangular, standard deviation 0.41."""
    at = torch.arange(channels * size * size, device=key.device)
    raw = mix(key[:, None] + at * _GAMMA)
    noise = (_shift(raw, 40).float() - (raw & 0xFFFFFF).float()) * 2.0**-24
    return noise.view(-1, channels, size, size)
