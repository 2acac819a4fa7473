"""What the peers of several families need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray

Array = NDArray[Any]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile for one fixed shape; a graph break is an error, not a slower peer."""
    return torch.compile(function, fullgraph=True, dynamic=False)
