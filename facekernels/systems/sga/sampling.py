"""Which images come next: seeded draws whose position can be saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


class Draw(Protocol):
    """A draw of `count` different rows out of ``range(total)``."""

    def __call__(self, total: int, count: int, /) -> Rows | Sequence[int]: ...


@runtime_checkable
class Resumable(Protocol):
    """A draw that a checkpoint can continue; the state is of plain numbers, strings and lists."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> None: ...


class GeneratorDraw:
    """The default: NumPy's PCG64, seeded by one or several numbers (such as seed and rank)."""

    def __init__(self, *seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def __call__(self, total: int, count: int, /) -> Rows:
        return self._generator.choice(total, count, replace=False)

    def permutation(self, total: int) -> Rows:
        """All rows in a random order."""
        return self._generator.permutation(total)

    def state_dict(self) -> dict[str, Any]:
        return dict(self._generator.bit_generator.state)

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self._generator.bit_generator.state = state


class LegacyDraw:
    """NumPy's legacy ``RandomState(seed).choice``, as the released code of SGA draws."""

    def __init__(self, seed: int = 0) -> None:
        self._generator = np.random.RandomState(seed)

    def __call__(self, total: int, count: int, /) -> Rows:
        return self._generator.choice(total, count, replace=False)

    def state_dict(self) -> dict[str, Any]:
        name, keys, *rest = self._generator.get_state(legacy=True)
        return {"state": [name, np.asarray(keys).tolist(), *rest]}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        name, keys, *rest = state["state"]
        self._generator.set_state((name, np.array(keys, dtype=np.uint32), *rest))


def check_rows(rows: Rows | Sequence[int], total: int, count: int) -> Rows:
    """The rows that a draw gave, as int64, if they are what it was asked for."""
    found = np.asarray(rows, dtype=np.int64)
    if found.shape != (count,):
        raise ValueError(f"draw must give {count} rows, got shape {found.shape}")
    if count and (found.min() < 0 or found.max() >= total):
        raise ValueError(f"draw must give rows in [0, {total}), got {found.tolist()}")
    return found
