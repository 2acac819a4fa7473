"""Loads the extension modules and remembers why one could not be loaded.

`_C` holds the CPU kernels and, when built with nvcc, the CUDA kernels; `_emulated` holds the same
CUDA sources compiled to run on the CPU. Importing either never touches a GPU.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

_errors: dict[str, ImportError] = {}


def _load(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(f"facekernels.{name}")
    except ImportError as error:
        _errors[name] = error
        return None


C = _load("_C")
emulated = _load("_emulated")


def require(module: ModuleType | None, name: str) -> ModuleType:
    """`module`, or one ImportError that holds the original cause and what to do."""
    if module is not None:
        return module
    remedy = (
        "Rebuild with FACEKERNELS_EMULATION=ON where the CUDA headers are found"
        if name == "_emulated"
        else "Reinstall with `pip install --force-reinstall facekernels`"
    )
    raise ImportError(
        f"facekernels.{name} could not be loaded: {_errors[name]}. {remedy}, or run "
        "`python -m facekernels.collect_env` for details. facekernels.backend('reference') works "
        "without it."
    ) from _errors[name]


def load_error(name: str) -> str | None:
    """Why `name` ("_C" or "_emulated") could not be loaded, or None if it was."""
    return str(_errors[name]) if name in _errors else None


def built_archs() -> list[int]:
    """GPU architectures compiled into the module, e.g. [80, 90]; empty without CUDA."""
    return [int(a) for a in C.build_info()["cuda_archs"].split()] if C is not None else []


def has_cuda() -> bool:
    """Whether CUDA kernels are built in and torch sees a CUDA device."""
    return bool(built_archs()) and torch.cuda.is_available()


def backends() -> list[str]:
    """The back ends that `facekernels.backend` accepts here."""
    names = ["auto", "reference"]
    return [*names, "emulated"] if emulated is not None else names
