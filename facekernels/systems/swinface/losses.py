"""The analysis losses of SwinFace. The recognition loss is `facekernels.nn.PartialFC`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facekernels.data.labels import ATTRIBUTES
from facekernels.systems.swinface.labels import TASKS

NOT_LABELLED = -1
"""A class that a row has no label for; of an age it is NaN."""


class AgeLoss(nn.Module):
    """From squared error to a bounded one as training goes on.

    Equivalent to::

        d2 = (predicted - age) ** 2
        ((1 - r) / 2 * d2 + r * (1 - torch.exp(-d2 / (2 * sigma**2)))).mean()

    with r = step / total_steps, over the rows whose age is not NaN; 0 without any.

    Args:
        total_steps: steps of the training.
        sigma: years.

    Source: SwinFace, arXiv 2308.11509, section III-D; sigma 3 of the released code.
    """

    def __init__(self, total_steps: int, sigma: float = 3.0) -> None:
        super().__init__()
        if total_steps < 1 or sigma <= 0:
            raise ValueError(
                f"total_steps and sigma must be positive, got {total_steps} and {sigma}"
            )
        self.total_steps, self.sigma = total_steps, sigma

    def forward(self, predicted: Tensor, age: Tensor, step: int) -> Tensor:
        """``[B]`` or ``[B, 1]`` years against ``[B]`` years, at optimizer step `step`."""
        labelled = ~age.isnan()
        # Where there is no label the difference is 0, so that no NaN reaches the gradient.
        squared = torch.where(labelled, predicted.float().view(-1) - age, 0.0).square()
        ramp = step / self.total_steps
        loss = (1 - ramp) / 2 * squared + ramp * -torch.expm1(-squared / (2 * self.sigma**2))
        return loss.sum() / labelled.sum().clamp(min=1)


class MultiTaskLoss(nn.Module):
    """All analysis losses of a batch in which every row has labels for some of the tasks.

    Each task's loss is the mean over the rows that are labelled for it, 0 without any. In the
    published batch (recognition, age and gender, CelebA, expression one after the other) these are
    the released code's slices: Age on the second part, Gender on second and third, the other
    attributes on the third, Expression on the fourth.

    Args:
        total_steps: steps of the training, for the age loss.
        weights: task name to factor; 1 where not named.
        sigma: of the age loss.

    Raises:
        ValueError: a factor is negative, or of a task that does not exist.
    """

    def __init__(
        self, total_steps: int, weights: Mapping[str, float] | None = None, sigma: float = 3.0
    ) -> None:
        super().__init__()
        self.weights = dict(weights or {})
        unknown = sorted(self.weights.keys() - set(TASKS))
        if unknown:
            raise ValueError(
                f"weights must be of analysis tasks such as {TASKS[0]} and {TASKS[-1]}, got "
                f"{', '.join(unknown)}"
            )
        for task, weight in self.weights.items():
            if weight < 0:
                raise ValueError(f"weights[{task!r}] must be at least 0, got {weight}")
        self.age = AgeLoss(total_steps, sigma)

    def forward(
        self, outputs: Mapping[str, Tensor], labels: Mapping[str, Tensor], step: int
    ) -> dict[str, Tensor]:
        """Task name to loss, unweighted, for the tasks in `outputs`.

        Args:
            outputs: as `SwinFace` gives them.
            labels: ``"age"`` ``[B]`` years or NaN; ``"attributes"`` ``[B, 40]`` 0, 1 or -1 in the
                order of `facekernels.data.labels.ATTRIBUTES`; ``"expression"`` ``[B]`` class or -1.
            step: optimizer step, for the age loss.
        """
        losses = {}
        if "Age" in outputs:
            losses["Age"] = self.age(outputs["Age"], labels["age"], step)
        losses |= self._attributes(outputs, labels["attributes"])
        if "Expression" in outputs:
            losses["Expression"] = _cross_entropy(
                outputs["Expression"][None], labels["expression"][None]
            )[0]
        return losses

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Weighted sum."""
        return torch.stack([self.weights.get(task, 1.0) * v for task, v in losses.items()]).sum()

    def _attributes(self, outputs: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """All attributes in one pass: 40 losses of two classes would be 40 launches."""
        names: Sequence[str] = [name for name in ATTRIBUTES if name in outputs]
        if not names:
            return {}
        columns = [ATTRIBUTES.index(name) for name in names]
        logits = torch.stack([outputs[name] for name in names])
        losses = _cross_entropy(logits, labels[:, columns].T)
        return dict(zip(names, losses.unbind(), strict=True))


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """``[T]``: mean over the labelled rows of ``[T, B, K]`` logits and ``[T, B]`` labels."""
    flat = F.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten().long(), reduction="none",
        ignore_index=NOT_LABELLED,
    )  # fmt: skip
    labelled = labels != NOT_LABELLED
    return flat.view(labels.shape).sum(1) / labelled.sum(1).clamp(min=1)
