"""Fused CPU and CUDA kernels for face analysis, as drop-in PyTorch ops.

Importing is cheap: it loads neither torch nor an extension module before the first use, and never
touches a GPU. See `facekernels.ops`, `facekernels.nn`, and the `facekernels` command.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from facekernels._version import __version__

if TYPE_CHECKING:
    from facekernels import nn as nn
    from facekernels import ops as ops
    from facekernels import reference as reference
    from facekernels._native import backends, built_archs, has_cuda
    from facekernels._op import backend, current_backend

_MODULES = ("nn", "ops", "reference")
# `python -m facekernels.collect_env` must run where torch cannot be imported, hence not above.
_NAMES = {
    "backend": "_op",
    "backends": "_native",
    "built_archs": "_native",
    "current_backend": "_op",
    "has_cuda": "_native",
}

__all__ = [
    "__version__",
    "backend",
    "backends",
    "built_archs",
    "current_backend",
    "has_cuda",
    "nn",
    "ops",
    "reference",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"facekernels.{name}")
    if name in _NAMES:
        value = getattr(import_module(f"facekernels.{_NAMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'facekernels' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *_NAMES})
