"""Accuracies of a classifier whose classes are of unequal size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor


def confusion_matrix(labels: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
    """How often each class was taken for each.

    Equivalent to ``sklearn.metrics.confusion_matrix(labels, predicted, labels=range(K))``.

    Args:
        labels: ``[N]`` integers in [0, K).
        predicted: ``[N]`` integers in [0, K).
        num_classes: K.

    Returns:
        ``[K, K]`` int64: row the true class, column the predicted one.

    Raises:
        ValueError: shapes differ, or a value lies outside.
    """
    if labels.ndim != 1 or labels.shape != predicted.shape:
        raise ValueError(
            f"labels and predicted must be [N], got shapes {tuple(labels.shape)} and "
            f"{tuple(predicted.shape)}"
        )
    for name, values in (("labels", labels), ("predicted", predicted)):
        outside = (values < 0) | (values >= num_classes)
        if bool(outside.any()):
            row = int(outside.nonzero()[0])
            raise ValueError(
                f"{name} must lie in [0, {num_classes}), got {int(values[row])} in row {row}"
            )
    flat = torch.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return flat.view(num_classes, num_classes)


def accuracy(matrix: Tensor) -> float:
    """Share of all images that were classified right; NaN without images."""
    return float(matrix.diagonal().sum()) / total if (total := int(matrix.sum())) else float("nan")


def recalls(matrix: Tensor) -> Tensor:
    """``[K]`` float64: share of each class that was found; NaN for a class without images."""
    return matrix.diagonal().double() / matrix.sum(1)


def mean_accuracy(matrix: Tensor) -> float:
    """Unweighted mean of the recalls, over the classes that have images.

    The "mean accuracy" of expression recognition: a rare class counts as much as a frequent one.
    """
    return float(recalls(matrix).nanmean())


def top_k_accuracy(scores: Tensor, labels: Tensor, k: int = 5) -> float:
    """Share of rows of ``[N, K]`` scores whose label is among the `k` largest.

    Among equal scores the lower class comes first.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    return float((order == labels[:, None]).any(1).double().mean())


def save_confusion_picture(path: str | Path, matrix: Tensor, names: Sequence[str]) -> None:
    """Draw the matrix, every row as shares of its class, in the format of the path's suffix."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from facekernels.data.files import replacing

    share = matrix.double() / matrix.sum(1, keepdim=True).clamp(min=1)
    side = 1.8 + 0.62 * len(names)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=1)
    for i, row in enumerate(share.tolist()):
        for j, value in enumerate(row):
            color = "white" if value > 0.5 else "#222222"
            axes.text(j, i, f"{100 * value:.0f}", ha="center", va="center", color=color, fontsize=9)
    counts = matrix.sum(1).tolist()
    axes.set_yticks(range(len(names)), [f"{n} ({c})" for n, c in zip(names, counts, strict=True)])
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true (images)")
    axes.set_title(
        f"% of the true class. Accuracy {100 * accuracy(matrix):.1f} %, mean "
        f"{100 * mean_accuracy(matrix):.1f} %",
        fontsize=10,
    )
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format=Path(path).suffix[1:])
