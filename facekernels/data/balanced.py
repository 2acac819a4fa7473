"""A given number of images of every class."""

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
    _check_labels(labels)
    if per_class < 1:
        raise ValueError(f"per_class must be at least 1, got {per_class}")
    values = list(range(len(classes))) if classes is not None else labels.unique().tolist()
    return _drawn(labels, values, [per_class] * len(values), seed, classes)


def subsample_to_counts(
    labels: Tensor, counts: Sequence[int], *, seed: int = 0, classes: Sequence[str] | None = None
) -> Tensor:
    """Rows that hold ``counts[k]`` images of class k: a controlled imbalance.

    Args:
        labels: ``[N]`` integers in ``[0, K)``.
        counts: K numbers of images, such as `imbalanced_counts` gives them.
        seed: the same seed gives the same rows in the same order.
        classes: names, used in the error.

    Returns:
        ``[sum(counts)]`` int64, drawn without replacement, shuffled.

    Raises:
        ValueError: a class has fewer images than asked for; images are never repeated.
    """
    _check_labels(labels)
    if min(counts, default=0) < 0:
        raise ValueError(f"counts must not be negative, got {list(counts)}")
    return _drawn(labels, list(range(len(counts))), counts, seed, classes)


def _check_labels(labels: Tensor) -> None:
    if labels.ndim != 1 or labels.dtype.is_floating_point:
        raise ValueError(
            f"labels must be [N] integers, got shape {tuple(labels.shape)} of {labels.dtype}"
        )


def _drawn(
    labels: Tensor,
    values: Sequence[int],
    counts: Sequence[int],
    seed: int,
    classes: Sequence[str] | None,
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for value, count in zip(values, counts, strict=True):
        found = (labels == value).nonzero()[:, 0].cpu()
        if len(found) < count:
            name = repr(classes[value]) if classes is not None else str(value)
            raise ValueError(f"class {name} has {len(found)} images, {count} were asked for")
        rows.append(found[torch.randperm(len(found), generator=generator)[:count]])
    drawn = torch.cat(rows) if rows else torch.empty(0, dtype=torch.int64)
    return drawn[torch.randperm(len(drawn), generator=generator)]
