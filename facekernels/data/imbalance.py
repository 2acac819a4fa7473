"""Class sizes of long-tailed training sets."""

from __future__ import annotations

from facekernels import _check


def imbalanced_counts(n_max: int, classes: int, factor: float) -> list[int]:
    """Sizes ``n_max * factor ** (-k / (classes - 1))`` of class k = 0, 1, ..., rounded.

    The conventional exponential scheme: the first class is `factor` times as large as the last.

    Args:
        n_max: images of the largest class, at least 1.
        classes: number of classes, at least 1.
        factor: imbalance factor, at least 1; 1 is balanced.

    Returns:
        One count per class, none below 1.

    Raises:
        TypeError, ValueError: an argument of another type or out of range.

    Source: Cui et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019.
    """
    n_max, classes = _check.integer("n_max", n_max), _check.integer("classes", classes)
    factor = _check.number("factor", factor)
    for name, value in (("n_max", n_max), ("classes", classes), ("factor", factor)):
        if not 1 <= value < float("inf"):
            raise ValueError(f"{name} must be at least 1 and finite, got {value}")
    last = max(classes - 1, 1)
    return [max(1, round(n_max * factor ** (-k / last))) for k in range(classes)]
