"""The same number of images of every class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def balanced_indices(
    labels: Tensor, per_class: int, *, seed: int = 0, classes: Sequence[str] | None = None
) -> Tensor:
    """Rows that hold `per_class` images of each class, drawn without replacement, shuffled.

    Args:
        labels: ``[N]`` integers; the classes are the values that occur, or, with `classes`,
            ``0 .. len(classes) - 1``.
        per_class: images of each class, at least 1.
        seed: the same seed gives the same rows in the same order.
        classes: names, used in the error.

    Returns:
        ``[classes * per_class]`` int64.

    Raises:
        ValueError: a class has fewer images than asked for; images are never repeated.
    """
    if labels.ndim != 1 or labels.dtype.is_floating_point:
        raise ValueError(
            f"labels must be [N] integers, got shape {tuple(labels.shape)} of {labels.dtype}"
        )
    if per_class < 1:
        raise ValueError(f"per_class must be at least 1, got {per_class}")
    values = range(len(classes)) if classes is not None else labels.unique().tolist()
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for value in values:
        found = (labels == value).nonzero()[:, 0].cpu()
        if len(found) < per_class:
            name = repr(classes[value]) if classes is not None else str(value)
            raise ValueError(f"class {name} has {len(found)} images, {per_class} were asked for")
        rows.append(found[torch.randperm(len(found), generator=generator)[:per_class]])
    drawn = torch.cat(rows) if rows else torch.empty(0, dtype=torch.int64)
    return drawn[torch.randperm(len(drawn), generator=generator)]
