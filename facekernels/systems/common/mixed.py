"""One batch from several data sets: the first rows from the first, the next from the second."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from facekernels.systems.common.steps import Draw, StepBatches


class MixedBatches(Sampler[list[tuple[int, Draw]]]):
    """Batches of several sources side by side, step by step.

    Args:
        sources: one `StepBatches` per data set, all of the same number of steps.
    """

    def __init__(self, sources: Sequence[StepBatches]) -> None:
        if len({len(s) for s in sources}) != 1:
            raise ValueError(
                f"sources must have the same number of steps, got {[len(s) for s in sources]}"
            )
        self._sources = list(sources)

    def __len__(self) -> int:
        return len(self._sources[0])

    def __iter__(self) -> Iterator[list[tuple[int, Draw]]]:
        for batches in zip(*self._sources, strict=True):
            yield [(i, draw) for i, batch in enumerate(batches) for draw in batch]


class MixedImages(Dataset[dict[str, Tensor]]):
    """Several data sets; a batch concatenates what each gives for its rows."""

    def __init__(self, sources: Sequence[Dataset[dict[str, Tensor]]]) -> None:
        self.sources = list(sources)

    def __len__(self) -> int:
        return sum(map(len, self.sources))  # type: ignore[arg-type]

    def __getitem__(self, item: tuple[int, Any]) -> dict[str, Tensor]:
        source, draw = item
        return self.sources[source][draw]

    def __getitems__(self, items: Sequence[tuple[int, Draw]]) -> dict[str, Tensor]:
        """The rows in the order of the sources."""
        parts = []
        for i, source in enumerate(self.sources):
            draws = [draw for number, draw in items if number == i]
            parts.append(_fetch(source, draws))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _fetch(source: Dataset[dict[str, Tensor]], draws: list[Draw]) -> dict[str, Tensor]:
    fetch_batch = getattr(source, "__getitems__", None)
    if fetch_batch is not None:
        whole: dict[str, Tensor] = fetch_batch(draws)
        return whole
    rows = [source[draw] for draw in draws]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
