"""The one gate every op goes through.

A native op is an out-variant: Python allocates outputs with torch and the kernel fills them. In
plain eager code `launch` calls the pybind11 function itself (about 1 us); while torch compiles or
exports, under a dispatch or function mode, and for tensor subclasses it calls the same function
through `torch.ops.facekernels`, so those see a well-behaved op. Its fake implementation is empty,
because an out-variant returns nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import environ
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from facekernels import _native
from facekernels._torch_private import function_modes_active
from facekernels._torch_private import functorch_active as functorch_active
from facekernels._torch_private import modes_active as modes_active

_BACKENDS = ("auto", "reference", "emulated")
_LIBRARY = torch.library.Library("facekernels", "DEF")
_PLAIN_TYPES = frozenset({Tensor, torch.nn.Parameter, int, float, bool, type(None)})

# What plain eager code may pass straight to a kernel without asking torch's dispatcher.
_backend = "auto"


def _check_backend(name: str) -> str:
    if name not in _BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(_BACKENDS)}, got {name!r}")
    if name == "emulated":
        _native.require(_native.emulated, "_emulated")
    return name


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Choose the back end of all ops inside a `with` block.

    Args:
        name: ``"auto"`` (CPU or CUDA kernels by the tensors' device), ``"reference"`` (plain
            PyTorch, every device, every transform) or ``"emulated"`` (the CUDA kernels executed on
            the CPU; for tests, orders of magnitude slower).

    The environment variable ``FACEKERNELS_BACKEND`` sets the initial choice.

    Raises:
        ValueError: for another name.
        ImportError: for ``"emulated"`` when the package was built without it.
    """
    global _backend
    previous = _backend
    _backend = _check_backend(name)
    try:
        yield
    finally:
        _backend = previous


def current_backend() -> str:
    """The name `backend` was last given."""
    return _backend


class Op:
    """A native out-variant op: its kernel functions and its entry in torch's dispatcher."""

    __slots__ = ("dispatched", "emulated", "name", "native")

    def __init__(self, schema: str) -> None:
        self.name = schema[: schema.index("(")]
        _LIBRARY.define(schema)
        self.native: Callable[..., None] = self._function_of(_native.C, "_C")
        self.emulated: Callable[..., None] = self._function_of(_native.emulated, "_emulated")
        for key in ("CPU", "CUDA"):
            _LIBRARY.impl(self.name, self.native, key)
        torch.library.register_fake(f"facekernels::{self.name}", _fake, lib=_LIBRARY)
        self.dispatched = getattr(torch.ops.facekernels, self.name).default

    def _function_of(self, module: Any, module_name: str) -> Callable[..., None]:
        if module is not None:
            function: Callable[..., None] = getattr(module, self.name)
            return function

        def unavailable(*args: Any) -> None:
            _native.require(module, module_name)

        return unavailable

    def __repr__(self) -> str:
        return f"Op({self.name})"


def _fake(*args: Any) -> None:
    """Out-variants return nothing, and their outputs already have shapes."""


def launch(op: Op, *args: Any) -> None:
    """Run `op`, by the shortest way the calling context allows."""
    if torch.compiler.is_compiling():
        if _backend == "emulated":
            raise RuntimeError("the emulated back end runs in eager mode only, not while compiling")
        op.dispatched(*args)
        return
    if _backend == "emulated":
        op.emulated(*args)
        return
    if not modes_active() and not function_modes_active():
        for arg in args:
            if type(arg) not in _PLAIN_TYPES:
                break
        else:
            op.native(*args)
            return
    op.dispatched(*args)


def use_reference() -> bool:
    """Whether a call must take the plain PyTorch path.

    That is so under `backend("reference")` and inside functorch transforms or forward-mode AD
    (vmap, grad, jvp, jacrev, ...), which differentiate and batch the reference formula.
    """
    if _backend == "reference":
        return True
    if torch.compiler.is_compiling():
        return False
    return functorch_active() or forward_ad._current_level >= 0


_backend = _check_backend(environ.get("FACEKERNELS_BACKEND", "auto"))
