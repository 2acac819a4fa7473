"""Errors of age estimates."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_absolute_error(predicted: Tensor, age: Tensor) -> float:
    """Mean of |predicted - age|, in years; ``[N]`` each."""
    _same_shape(predicted, age)
    return float((predicted.double() - age).abs().mean())


def epsilon_error(predicted: Tensor, mean: Tensor, std: Tensor) -> float:
    """The score of the ChaLearn apparent-age challenge: 0 is perfect, 1 far off.

    Equivalent to::

        1 - torch.exp(-((predicted - mean) ** 2) / (2 * std**2)).mean()

    Args:
        predicted: ``[N]`` years.
        mean: ``[N]``, of what people guessed.
        std: ``[N]`` standard deviation of the guesses, above 0.

    Raises:
        ValueError: shapes differ, or a std is not positive.

    Source: Escalera et al., ChaLearn Looking at People 2015, ICCV workshops 2015.
    """
    _same_shape(predicted, mean)
    _same_shape(predicted, std)
    if not bool((std > 0).all()):
        raise ValueError(f"std must be positive, got {float(std.min())}")
    squared = (predicted.double() - mean) ** 2
    return float(1 - torch.exp(-squared / (2 * std.double() ** 2)).mean())


def _same_shape(predicted: Tensor, other: Tensor) -> None:
    if predicted.ndim != 1 or predicted.shape != other.shape:
        raise ValueError(
            f"ages must be [N], got shapes {tuple(predicted.shape)} and {tuple(other.shape)}"
        )
