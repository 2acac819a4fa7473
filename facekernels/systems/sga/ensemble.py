"""The models that are attacked: what they say of clean images, and gradients at their input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from facekernels.systems.sga.losses import Loss


class Gradient(NamedTuple):
    """Of the weighted sum of the models' losses, at the models' input."""

    grad: Tensor
    """``[b, C, H, W]``, times the loss scale; float32, or the AMP dtype of a single model."""
    loss: Tensor
    """Weighted sum of the losses, unscaled; no dimensions, on the device."""
    hits: Tensor
    """Share of predictions, over images and models, that differ from the labels."""


class Ensemble:
    """One or several models with weights, in evaluation mode while `frozen`."""

    def __init__(
        self,
        models: Sequence[nn.Module],
        weights: Sequence[float] | None,
        loss: Loss,
        amp_dtype: torch.dtype | None,
        device: torch.device,
    ) -> None:
        self.models = tuple(models)
        self.weights = weights
        self.loss = loss
        self.amp_dtype = amp_dtype
        self.device = device
        self.needs_clean_logits = bool(getattr(loss, "uses_clean_logits", False))

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Evaluation mode and parameters that need no gradient; both restored afterwards.

        The graph then keeps no activation that only a weight's gradient would need.
        """
        modules = [m for model in self.models for m in model.modules() if m.training]
        parameters = [p for model in self.models for p in model.parameters() if p.requires_grad]
        for model in self.models:
            model.eval()
        for parameter in parameters:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for module in modules:
                module.training = True
            for parameter in parameters:
                parameter.requires_grad_(True)

    @torch.no_grad()
    def clean_logits(self, x: Tensor) -> list[Tensor]:
        """Every model's logits ``[b, K]``."""
        return [self._logits(model, x) for model in self.models]

    def gradient(
        self, x: Tensor, references: Sequence[Tensor], labels: Sequence[Tensor], scale: float
    ) -> Gradient:
        """Gradient at the input ``x [b, C, H, W]``; references and labels have one per model.

        Models run one after another, so only one graph is alive at a time.
        """
        x = x.detach().requires_grad_()
        grads, losses, hits = [], [], []
        for model, reference, y in zip(self.models, references, labels, strict=True):
            with torch.enable_grad():
                logits = self._logits(model, x)
                loss = self.loss(logits, reference)
                if loss.ndim != 0:
                    raise ValueError(
                        f"loss must give a scalar, got a tensor of shape {tuple(loss.shape)}"
                    )
                (grad,) = torch.autograd.grad(loss if scale == 1 else loss * scale, x)
            grads.append(grad)
            losses.append(loss.detach())
            hits.append((logits.detach().argmax(1) != y).double().mean())
        share = torch.stack(hits).mean()
        if self.weights is None and len(grads) == 1:
            return Gradient(grads[0], losses[0], share)
        weights = self.weights or [1.0] * len(grads)
        total = torch.zeros_like(grads[0], dtype=torch.float32)
        for weight, grad in zip(weights, grads, strict=True):
            total.add_(grad.float(), alpha=weight)
        return Gradient(total, sum_of(w * v for w, v in zip(weights, losses, strict=True)), share)

    def _logits(self, model: nn.Module, x: Tensor) -> Tensor:
        with self._autocast():
            logits = model(x)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[0] != x.shape[0]:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"models must give logits [b, K] with b = {x.shape[0]}, "
                f"{type(model).__name__} gave {shape}"
            )
        return logits if self.amp_dtype is None else logits.float()

    def _autocast(self) -> AbstractContextManager[object]:
        if self.amp_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.amp_dtype)


def sum_of(values: Iterator[Tensor]) -> Tensor:
    """Sum of one or more tensors."""
    return torch.stack(list(values)).sum()
