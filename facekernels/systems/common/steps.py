"""Batches by step: step k of a seed holds the same images in every run.

Training is counted in optimizer steps, as the published recipes are. One pass of the loader is the
whole training, so an interrupted run goes on at its step, and the draw of a step depends on neither
the number of processes nor the number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

# Rows below it, seeds above: no two steps of two seeds share a key.
_SEED_SHIFT = 40


class Draw(NamedTuple):
    """One image of one step."""

    row: int
    """Position in the data set."""
    key: int
    """Seed of everything random about this image in this step, such as its augmentation."""


class StepBatches(Sampler[list[Draw]]):
    """The batches of a training, one list of draws per step.

    Args:
        length: images in the data set, at least 1.
        batch_size: images per step over all processes; must divide by `world`.
        steps: steps of the whole training.
        seed: the same seed gives the same batches.
        weights: ``[length]``: draw with replacement, with these odds; None shuffles, pass after
            pass, every image once per pass.
        start: first step, where a training is continued.
        rank, world: this process takes rows ``rank, rank + world, ...`` of every batch.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        steps: int,
        *,
        seed: int = 0,
        weights: Tensor | None = None,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if length < 1:
            raise ValueError(f"the training set must hold at least one image, got {length}")
        if batch_size < 1 or batch_size % world:
            raise ValueError(
                f"batch_size counts the images of all processes and must divide by their number "
                f"{world}, got {batch_size}"
            )
        if weights is not None and (weights.shape != (length,) or not bool((weights >= 0).all())):
            raise ValueError(f"weights must be [{length}] and not negative")
        self._length, self._batch_size, self._steps, self._seed = length, batch_size, steps, seed
        self._weights, self._start, self._rank, self._world = weights, start, rank, world
        self._kept: tuple[int, Tensor] | None = None

    def __len__(self) -> int:
        """All steps, also those before `start`: the loop counts from there."""
        return self._steps

    def __iter__(self) -> Iterator[list[Draw]]:
        for step in range(self._start, self._steps):
            rows = range(step * self._batch_size + self._rank,
                         (step + 1) * self._batch_size, self._world)  # fmt: skip
            yield [Draw(self._index(row), (self._seed << _SEED_SHIFT) + row) for row in rows]

    def _index(self, row: int) -> int:
        number, position = divmod(row, self._length)
        if self._kept is None or self._kept[0] != number:
            self._kept = (number, self._pass(number))
        return int(self._kept[1][position])

    def _pass(self, number: int) -> Tensor:
        """The images of pass `number` in their order."""
        generator = torch.Generator().manual_seed((self._seed << _SEED_SHIFT) + number)
        if self._weights is None:
            return torch.randperm(self._length, generator=generator)
        return torch.multinomial(
            self._weights.double(), self._length, replacement=True, generator=generator
        )


class StepLoader(DataLoader[Any]):
    """A DataLoader over `StepBatches`.

    Its state is the training's step, which the trainer keeps: a continued training makes its loader
    with `start`, so there is nothing to load here.
    """

    def state_dict(self) -> dict[str, Any]:
        """Nothing beyond the trainer's step."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The position is already that of the trainer."""


class ShardOfRank(Sampler[int]):
    """Rows ``rank, rank + world, ...``: every image of an evaluation once, on one process."""

    def __init__(self, data: Dataset[Any], rank: int, world: int) -> None:
        self._rows = range(rank, len(data), world)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows)
