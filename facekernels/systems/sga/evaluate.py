"""How often a universal perturbation changes what a model says.

The measure is the fooling ratio: predictions are compared with the model's own predictions on the
clean images. True labels play no part, so a model's errors do not count as fooled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Statistics = Tensor | Sequence[float] | None
"""Mean or standard deviation per channel; None leaves the images as they are."""


def perturb(images: Tensor, delta: Tensor) -> Tensor:
    """``clamp(images + delta, 0, 1)`` in delta's dtype; uint8 images are divided by 255 first."""
    return (to_unit(images, delta.dtype) + delta).clamp(0, 1)


def to_unit(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Images as floats in [0, 1]: uint8 is divided by 255, floats are taken as they are."""
    return images.to(dtype) / 255 if images.dtype is torch.uint8 else images.to(dtype)


def predict(
    model: nn.Module,
    images: Tensor,
    delta: Tensor | None = None,
    *,
    mean: Statistics = None,
    std: Statistics = None,
    batch_size: int = 250,
) -> Tensor:
    """The model's argmax for each image, ``[N]`` int64, with `delta` added if given.

    The model runs in evaluation mode (restored afterwards), without gradients, on the device of
    its parameters; the last batch may be smaller.

    Args:
        model: ``(x - mean) / std`` with x in [0, 1], to logits ``[b, classes]``.
        images: ``[N, C, H, W]`` with N >= 1, uint8 or float in [0, 1].
        delta: ``[C, H, W]`` float, in units of [0, 1].
        mean: per channel, None for 0.
        std: per channel, None for 1.
        batch_size: images per forward pass, at least 1.

    Raises:
        ValueError: no images, delta of another shape, or a batch size below 1.
    """
    _check(images, delta, batch_size)
    device = next(iter(model.parameters()), images).device
    if delta is not None:
        delta = delta.detach().to(device)
    predictions = []
    with _evaluating(model), torch.no_grad():
        for batch in images.split(batch_size):
            batch = batch.to(device)
            x = to_unit(batch) if delta is None else perturb(batch, delta)
            predictions.append(model(normalise(x, mean, std)).argmax(1).to(images.device))
    return torch.cat(predictions)


def normalise(x: Tensor, mean: Statistics, std: Statistics) -> Tensor:
    """``(x - mean) / std`` per channel of ``[b, C, H, W]``."""
    if mean is not None:
        x = x - torch.as_tensor(mean, dtype=x.dtype, device=x.device).view(-1, 1, 1)
    if std is not None:
        x = x / torch.as_tensor(std, dtype=x.dtype, device=x.device).view(-1, 1, 1)
    return x


def fooling_ratio(
    model: nn.Module,
    images: Tensor,
    delta: Tensor,
    *,
    mean: Statistics = None,
    std: Statistics = None,
    batch_size: int = 250,
) -> float:
    """Share of the images whose prediction `delta` changes; arguments as for `predict`."""
    options = _Options(mean, std, batch_size)
    clean, fooled = options.predict(model, images), options.predict(model, images, delta)
    return float((clean != fooled).double().mean())


def fooling_per_class(
    model: nn.Module,
    images: Tensor,
    delta: Tensor,
    classes: int,
    *,
    mean: Statistics = None,
    std: Statistics = None,
    batch_size: int = 250,
) -> Tensor:
    """Fooling ratio by the clean prediction: ``[classes]`` float64, NaN for one never predicted."""
    options = _Options(mean, std, batch_size)
    clean, fooled = options.predict(model, images), options.predict(model, images, delta)
    changed = torch.zeros(classes, dtype=torch.float64, device=clean.device)
    changed.index_add_(0, clean, (clean != fooled).double())
    return changed / torch.bincount(clean, minlength=classes)


def targeted_success(
    model: nn.Module,
    images: Tensor,
    delta: Tensor,
    target: int,
    *,
    mean: Statistics = None,
    std: Statistics = None,
    batch_size: int = 250,
) -> float:
    """Share that `delta` moves to `target`, of the images not predicted as `target` when clean.

    NaN if all of them are.
    """
    options = _Options(mean, std, batch_size)
    clean, fooled = options.predict(model, images), options.predict(model, images, delta)
    return float((fooled[clean != target] == target).double().mean())


def transfer_matrix(
    deltas: Mapping[str, Tensor],
    models: Mapping[str, nn.Module],
    images: Tensor,
    *,
    mean: Statistics = None,
    std: Statistics = None,
    batch_size: int = 250,
) -> Tensor:
    """Fooling ratios ``[len(deltas), len(models)]`` float64, in the mappings' order.

    Clean predictions are made once per model. All models see the same `mean` and `std`.
    """
    options = _Options(mean, std, batch_size)
    result = torch.empty(len(deltas), len(models), dtype=torch.float64)
    for column, model in enumerate(models.values()):
        clean = options.predict(model, images)
        for row, delta in enumerate(deltas.values()):
            result[row, column] = (options.predict(model, images, delta) != clean).double().mean()
    return result


class _Options:
    """The options that all measures share."""

    def __init__(self, mean: Statistics, std: Statistics, batch_size: int) -> None:
        self.mean, self.std, self.batch_size = mean, std, batch_size

    def predict(self, model: nn.Module, images: Tensor, delta: Tensor | None = None) -> Tensor:
        return predict(model, images, delta, mean=self.mean, std=self.std,
                       batch_size=self.batch_size)  # fmt: skip


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for all submodules; each gets its own mode back."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _check(images: Tensor, delta: Tensor | None, batch_size: int) -> None:
    if images.ndim != 4 or len(images) == 0:
        raise ValueError(f"images must be [N >= 1, C, H, W], got shape {tuple(images.shape)}")
    if delta is not None and delta.shape != images.shape[1:]:
        raise ValueError(
            f"delta must have the shape of one image, {tuple(images.shape[1:])}, "
            f"got {tuple(delta.shape)}"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
