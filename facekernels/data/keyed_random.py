"""Random numbers that are a function of a key.

A row's numbers depend on its key alone: not on the batch it is in, the device, the process, or what
was drawn before.
"""

from __future__ import annotations

import torch
from torch import Tensor

# The constants of splitmix64 (Steele, Lea, Flood, OOPSLA 2014), as signed 64-bit integers.
_STEP = -0x61C8864680B583EB
_MIX_1 = -0x40A7B892E31B1A47
_MIX_2 = -0x6B2FB644ECCEEE15


def uniform(keys: Tensor, count: int) -> Tensor:
    """`count` numbers in [0, 1) for each of `keys` (``[B]`` int64): ``[B, count]`` float32."""
    position = torch.arange(1, count + 1, device=keys.device)
    x = _mix(keys)[:, None] + position * _STEP
    return (_shift(_mix(x), 40)).float() * 2.0**-24


def _mix(x: Tensor) -> Tensor:
    """The finalizer of splitmix64; products wrap."""
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
