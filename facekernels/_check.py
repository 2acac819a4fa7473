"""Argument checks shared by the public ops: sentences that name the argument, what was expected and
what came. The order is type, layout and device, dtype, shape, so the first thing wrong is named.
"""

from __future__ import annotations

import numbers
from typing import Any

import torch
from torch import Tensor

FLOATING = frozenset({torch.float32, torch.float64, torch.float16, torch.bfloat16})
_STRIDED = torch.strided


def shape_of(t: Tensor) -> str:
    """`(2, 3)`, also for torch.Size and symbolic sizes."""
    return f"({', '.join(str(s) for s in t.shape)})"


def tensor(name: str, t: Any) -> None:
    """`t` must be a dense tensor on the CPU or a CUDA device."""
    if not isinstance(t, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(t).__name__}")
    if t.layout is not _STRIDED:
        raise ValueError(f"{name} must be a dense (strided) tensor, got layout {t.layout}")
    if not (t.is_cpu or t.is_cuda):
        raise ValueError(f"{name} must be on the CPU or a CUDA device, got {t.device}")


def floating(name: str, t: Any) -> None:
    """`t` must be a dense float32, float64, float16 or bfloat16 tensor."""
    tensor(name, t)
    if t.dtype not in FLOATING:
        raise TypeError(
            f"{name} must be float32, float64, float16 or bfloat16, got {str(t.dtype)[6:]}"
        )


def shape(name: str, t: Tensor, expected: tuple[int, ...], meaning: str) -> None:
    """`t.shape` must be `expected`; `meaning` spells it, e.g. ``[G, R, C]``."""
    if t.shape != expected:
        wanted = f"({', '.join(str(s) for s in expected)})"
        raise ValueError(f"{name} must be {meaning} = {wanted}, got shape {shape_of(t)}")


def same_device(name: str, t: Tensor, other_name: str, other: Tensor) -> None:
    """`t` must be on the device of `other`."""
    if t.device != other.device:
        raise ValueError(
            f"{name} must be on the device of {other_name} ({other.device}), got {t.device}"
        )


def one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """`value` must be one of the strings `allowed`."""
    if value not in allowed:
        choices = ", ".join(repr(a) for a in allowed)
        raise ValueError(f"{name} must be one of {choices}, got {value!r}")


def integer(name: str, value: Any) -> int:
    """`value` must be an integer of Python or NumPy."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, got {_of_type(value)}")
    return int(value)


def number(name: str, value: Any) -> float:
    """`value` must be a real number of Python or NumPy, and not NaN."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {_of_type(value)}")
    if value != value:
        raise ValueError(f"{name} must be a number, got nan")
    return float(value)


def _of_type(value: Any) -> str:
    """`2.0 (float)`; of a tensor or an array the type alone."""
    kind = type(value).__name__
    return kind if hasattr(value, "shape") else f"{value!r} ({kind})"


def is_dense_image(t: Tensor, channels_last: bool = False) -> bool:
    """Whether each image of t ``[B, C, H, W]`` is one run of memory, channels outside or inside."""
    _, channels, height, width = t.shape
    expected = (1, width * channels, channels) if channels_last else (height * width, width, 1)
    return all(
        n == 1 or s == e
        for n, s, e in zip((channels, height, width), t.stride()[1:], expected, strict=True)
    )


def wide_dtype(t: Tensor) -> torch.dtype:
    """In which sums of elements of t are kept: float64 for float64, else float32."""
    return torch.float64 if t.dtype is torch.float64 else torch.float32


def resolve_neg(t: Tensor) -> Tensor:
    """Kernels read memory: a lazily negated view (`z.conj().imag`) must be negated first."""
    if torch.compiler.is_compiling() or t.is_neg():
        return t.resolve_neg()
    return t
