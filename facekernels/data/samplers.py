"""Which images a training sees, and how often."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset


def inverse_frequency_weights(labels: Tensor) -> Tensor:
    """Odds for drawing with replacement so that every class comes equally often.

    Args:
        labels: ``[N]`` integers from 0.

    Returns:
        ``[N]`` float64, 1 / size of the row's class: for `torch.utils.data.WeightedRandomSampler`.

    Raises:
        ValueError: labels of another shape or type.
    """
    if labels.ndim != 1 or labels.dtype.is_floating_point:
        raise ValueError(
            f"labels must be [N] integers, got shape {tuple(labels.shape)} of {labels.dtype}"
        )
    return (1 / torch.bincount(labels).double())[labels]


class RepeatToLength(Dataset[dict[str, Tensor]]):
    """Several data sets, each repeated in its order until it fills its share of a length.

    SwinFace's lists: 25 % Adience, 25 % MORPH and 50 % of IMDB and WIKI together; half AffectNet
    and half RAF-DB; CelebA alone with `keep` = 0.5.

    Args:
        sources: data sets of at least one item.
        shares: of the length, adding up to 1; every part but the last is rounded up.
        length: items of the whole.
        keep: probability that a pass over a source uses an item; each pass draws anew.
        seed: of those draws.

    An index is passed on as it is, and a draw (index, key) with its key.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        sources: Sequence[Dataset[dict[str, Tensor]]],
        shares: Sequence[float],
        length: int,
        *,
        keep: float = 1.0,
        seed: int = 0,
    ) -> None:
        if len(sources) != len(shares) or min(shares, default=0) <= 0:
            raise ValueError(
                f"shares must be {len(sources)} positive numbers, one per source, got {shares}"
            )
        if not math.isclose(sum(shares), 1):
            raise ValueError(f"shares must add up to 1, got {sum(shares)}")
        if not 0 < keep <= 1:
            raise ValueError(f"keep must lie in (0, 1], got {keep}")
        sizes = [len(source) for source in sources]  # type: ignore[arg-type]
        if min(sizes) < 1:
            raise ValueError(f"sources must not be empty, got sizes {sizes}")
        self.sources = list(sources)
        counts = [math.ceil(share * length - 1e-9) for share in shares[:-1]]
        counts.append(length - sum(counts))
        if counts[-1] < 0:
            raise ValueError(f"length must give every source an item, got {length}")
        generator = torch.Generator().manual_seed(seed)
        self._rows = [
            _repeated(size, count, keep, generator)
            for size, count in zip(sizes, counts, strict=True)
        ]
        self._ends = torch.tensor(counts).cumsum(0).tolist()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: Any) -> dict[str, Tensor]:
        position = index[0] if isinstance(index, tuple) else index
        if not 0 <= position < len(self):
            raise IndexError(f"index must lie in [0, {len(self)}), got {position}")
        part = next(i for i, end in enumerate(self._ends) if position < end)
        start = self._ends[part - 1] if part else 0
        row = int(self._rows[part][position - start])
        return self.sources[part][(row, index[1]) if isinstance(index, tuple) else row]


def _repeated(size: int, count: int, keep: float, generator: torch.Generator) -> Tensor:
    """``[count]`` rows of a list of `size`, pass after pass."""
    if keep == 1:
        return torch.arange(count) % size
    passes: list[Tensor] = []
    while sum(map(len, passes)) < count:
        used = torch.rand(size, generator=generator) < keep
        passes.append(used.nonzero()[:, 0])
    return torch.cat(passes)[:count] if passes else torch.empty(0, dtype=torch.int64)
