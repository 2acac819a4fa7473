"""Random numbers that are a function of a key.

A row's numbers depend on its key alone: not on the batch it is in, the device, the process, or what
was drawn before. The mixing function is that of splitmix64 (Steele, Lea, Flood, OOPSLA 2014).
"""

from __future__ import annotations

import torch
from torch import Tensor

# Constants of splitmix64, as int64.
GAMMA = -0x61C8864680B583EB
MIX_1 = -0x40A7B892E31B1A47
MIX_2 = -0x6B2FB644ECCEEE15


def mix(x: Tensor) -> Tensor:
    """A bijection of int64 that changes half of the bits on average; products wrap."""
    x = (x ^ shift(x, 30)) * MIX_1
    x = (x ^ shift(x, 27)) * MIX_2
    return x ^ shift(x, 31)


def shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def uniform(keys: Tensor, count: int) -> Tensor:
    """`count` numbers in [0, 1) for each of `keys` (``[B]`` int64): ``[B, count]`` float32."""
    position = torch.arange(1, count + 1, device=keys.device)
    x = mix(keys)[:, None] + position * GAMMA
    return shift(mix(x), 40).float() * 2.0**-24
