"""Sample and OpSpec, and the layouts that samples come in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """Arguments of one call. `small` samples are cheap enough for gradcheck and emulation."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    small: bool = True
    # Positions of arguments that stay float32 in a 16-bit call.
    wide: tuple[int, ...] = ()

    def to(self, dtype: torch.dtype, device: str = "cpu") -> Sample:
        """The same call with floating-point tensors of `dtype`; strides are kept."""

        def convert(position: int, a: Any) -> Any:
            if not isinstance(a, Tensor):
                return a
            if not a.is_floating_point():
                return a.to(device)
            as_wide = position in self.wide and dtype is not torch.float64
            return a.to(
                device=device,
                dtype=torch.float32 if as_wide else dtype,
                memory_format=torch.preserve_format,
            )

        args = tuple(convert(i, a) for i, a in enumerate(self.args))
        return Sample(self.name, args, self.kwargs, self.small, self.wide)

    @property
    def tensors(self) -> tuple[int, ...]:
        """Positions of the floating-point tensor arguments."""
        return tuple(
            i for i, a in enumerate(self.args) if isinstance(a, Tensor) and a.is_floating_point()
        )


@dataclass(frozen=True)
class OpSpec:
    """A public op, its oracle and its properties."""

    name: str
    op: Callable[..., Any]
    reference: Callable[..., Any]
    samples: Callable[[], Iterator[Sample]]
    # Differentiable arguments, by position; empty for ops without a gradient.
    differentiable: tuple[int, ...] = ()
    # Largest error of the float32 kernel against the float64 reference, relative to max(1, |ref|):
    # measured worst case over all samples x 2.
    tolerance: float = 1e-5
    # vmap, grad, jvp of torch.func.
    transforms: bool = True

    def __call__(self, sample: Sample) -> tuple[Tensor, ...]:
        return as_tuple(self.op(*sample.args, **sample.kwargs))

    def expected(self, sample: Sample) -> tuple[Tensor, ...]:
        return as_tuple(self.reference(*sample.args, **sample.kwargs))


def as_tuple(result: Any) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


def channels_last(x: Tensor) -> Tensor:
    """The same values with the channel dimension (third from last) fastest in memory."""
    return x.movedim(-3, -1).contiguous().movedim(-1, -3)


def sliced(x: Tensor) -> Tensor:
    """The same values as a view into a larger tensor: every leading stride is larger."""
    wide = x.new_full((*x.shape[:-3], x.shape[-3] + 2, *x.shape[-2:]), float("nan"))
    wide[..., 1:-1, :, :] = x
    return wide[..., 1:-1, :, :]
