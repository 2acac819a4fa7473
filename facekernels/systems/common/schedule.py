"""The learning-rate schedules of the published trainings, and the optimizers they drive."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from facekernels.nn import RowwiseAdamW


@dataclass
class Optimization:
    """Optimizer and learning-rate schedule of a training.

    Args:
        optimizer: the update rule; adamw leaves rows of sampled class centres without a gradient
            alone.
        lr: base learning rate, reached at the end of the warm-up.
        weight_decay: decoupled for AdamW, added to the gradient for Adam and SGD.
        momentum: of SGD.
        schedule: ``"cosine"`` falls to `min_lr` at the last step; ``"exponential"`` multiplies by
            `gamma` every `decay_steps`; ``"constant"`` stays.
        warmup_steps: steps of linear rise from `warmup_lr` to `lr`.
        warmup_lr: learning rate of the first step of the warm-up.
        min_lr: where the cosine ends.
        gamma: factor of the exponential schedule.
        decay_steps: steps between two of its factors.
        warmup_jump: the cosine counts its steps from 0 rather than from the end of the warm-up, so
            that the rate drops when the warm-up ends: what the published SwinFace and MEK trainings
            do (timm's scheduler without ``warmup_prefix``).
        lr_batch: all rates are meant for this many images per step and are multiplied by
            (images per step) / lr_batch; None takes them as they are.
    """

    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = 5e-4
    weight_decay: float = 0.05
    momentum: float = 0.9
    schedule: Literal["cosine", "exponential", "constant"] = "cosine"
    warmup_steps: int = 0
    warmup_lr: float = 0.0
    min_lr: float = 0.0
    gamma: float = 0.9
    decay_steps: int = 1
    warmup_jump: bool = True
    lr_batch: int | None = None

    def make(self, groups: Iterable[dict[str, Any]], total_steps: int, batch_size: int) -> Any:
        """What `LightningModule.configure_optimizers` returns.

        Args:
            groups: parameter groups; a group's optional ``"lr_scale"`` multiplies all its rates.
            total_steps: optimizer steps of the whole training.
            batch_size: images per optimizer step, over all processes.
        """
        scale = 1.0 if self.lr_batch is None else batch_size / self.lr_batch
        prepared = [
            {**group, "lr": self.lr * scale * group.get("lr_scale", 1.0)} for group in groups
        ]
        optimizer = self._optimizer(prepared)
        schedule = WarmupSchedule(optimizer, self, total_steps, scale)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        if self.optimizer == "adamw":
            return RowwiseAdamW(groups, weight_decay=self.weight_decay)
        if self.optimizer == "adam":
            return torch.optim.Adam(groups, weight_decay=self.weight_decay)
        return torch.optim.SGD(groups, momentum=self.momentum, weight_decay=self.weight_decay)

    def rate(self, base: float, step: int, total_steps: int, scale: float = 1.0) -> float:
        """Learning rate of optimizer step `step` (from 0) of a group whose base rate is `base`."""
        if step < self.warmup_steps:
            start = self.warmup_lr * scale
            return start + (base - start) * step / self.warmup_steps
        if self.schedule == "constant":
            return base
        since = step if self.warmup_jump else step - self.warmup_steps
        if self.schedule == "exponential":
            return base * self.gamma ** (since // self.decay_steps)
        length = total_steps if self.warmup_jump else total_steps - self.warmup_steps
        end = self.min_lr * scale
        return end + 0.5 * (base - end) * (1 + math.cos(math.pi * min(since / max(length, 1), 1.0)))


class WarmupSchedule(LRScheduler):
    """`Optimization.rate` of every parameter group at every optimizer step."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        optimization: Optimization,
        total_steps: int,
        scale: float = 1.0,
    ) -> None:
        self._rate = optimization.rate
        self._total_steps = max(total_steps, 1)
        self._scale = scale
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """One rate per group."""
        return [
            self._rate(float(base), self.last_epoch, self._total_steps, self._scale)
            for base in self.base_lrs
        ]

    def state_dict(self) -> dict[str, Any]:
        """The position; the settings are the configuration's."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at the saved step."""
        self.last_epoch = state_dict["last_epoch"]
        self._last_lr = self.get_lr()
