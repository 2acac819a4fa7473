"""The private names of torch this package uses, in one place.

They only make the eager path short. Where one is missing, its answer is "yes, a mode is active",
and calls take the public dispatcher path: slower, still right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def _private(path: str) -> Callable[[], Any]:
    value: Any = torch._C
    for part in path.split("."):
        value = getattr(value, part, None)
        if value is None:
            return lambda: 1
    function: Callable[[], Any] = value
    return function


modes_active = _private("_len_torch_dispatch_stack")
function_modes_active = _private("_len_torch_function_stack")
_functorch_level = _private("_functorch.maybe_current_level")


def functorch_active() -> bool:
    """Whether the caller is inside vmap, grad, jvp, functionalize, ..."""
    return _functorch_level() is not None
