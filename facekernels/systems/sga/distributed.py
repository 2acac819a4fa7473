"""The few collectives that data-parallel training needs; without a process group they do nothing.

Collectives run once per outer step and at checkpoints, never per inner step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch.distributed as dist
from torch import Tensor

from facekernels.systems.sga.sampling import Rows


class Group:
    """A process group, the default one if torch.distributed is initialised, or a lone process."""

    def __init__(self, process_group: dist.ProcessGroup | None = None) -> None:
        self._active = dist.is_available() and dist.is_initialized()
        self._group = process_group
        self.rank = dist.get_rank(process_group) if self._active else 0
        self.size = dist.get_world_size(process_group) if self._active else 1
        if self.rank < 0:
            raise ValueError("process_group must contain this process")

    def share(self, rows: Rows) -> Rows:
        """This rank's part of `rows`: contiguous, the parts' sizes differ by at most 1."""
        return np.array_split(rows, self.size)[self.rank]

    def sum_(self, tensor: Tensor) -> None:
        """The sum over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor, group=self._group)

    def broadcast_(self, tensor: Tensor) -> None:
        """The first rank's tensor, in place."""
        if self.size > 1:
            source = 0 if self._group is None else dist.get_global_rank(self._group, 0)
            dist.broadcast(tensor, source, group=self._group)

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in the order of ranks."""
        values: list[Any] = [value]
        if self.size > 1:
            values = [None] * self.size
            dist.all_gather_object(values, value, group=self._group)
        return values
