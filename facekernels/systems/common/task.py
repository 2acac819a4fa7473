"""The LightningModule that the trained systems derive from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import lightning
import torch
from torch import nn

from facekernels._version import __version__
from facekernels.systems.common.checkpoint import ENTRY, check_checkpoint, fitting


class SystemTask(lightning.LightningModule):
    """Steps that can be repeated, and checkpoints that know what they are.

    Random numbers on the training device (dropout, stochastic depth, sampled classes) are seeded
    anew by the seed and the number of each step, so that a continued training draws what an
    uninterrupted one would. Schedules are made for ``trainer.max_steps``:
    ``estimated_stepping_batches`` would make the loader before the trainer knows its step.
    """

    system: ClassVar[str]
    """The name under `facekernels.systems`."""
    format: ClassVar[int] = 1
    """Raised when checkpoints of earlier versions no longer fit."""
    network: nn.Module
    """What is trained. Its `settings` are the arguments that make it again."""
    _seed: int | None = None

    def on_fit_start(self) -> None:
        """Keep the seed of the run; a continued one has it from its checkpoint."""
        if self._seed is None:
            self._seed = torch.initial_seed() % 2**32

    def on_train_start(self) -> None:
        """Refuse a checkpoint of another optimizer, whose settings are now this one's."""
        for optimizer in self.trainer.optimizers:
            lacking = optimizer.defaults.keys() - optimizer.param_groups[0].keys()
            if lacking:
                raise ValueError(
                    f"{self._source()} cannot be used: it is of another optimizer than "
                    f"{type(optimizer).__name__}, without {', '.join(sorted(lacking))}"
                )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed the step; processes get different numbers."""
        assert self._seed is not None
        torch.manual_seed((self._seed << 24) + (batch_idx << 8) + self.global_rank)

    @property
    def images_per_step(self) -> int:
        """Images of an optimizer step, over all processes."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        return int(data.batch_size) * self.trainer.accumulate_grad_batches

    def check_image_size(self) -> None:
        """Model and data must agree.

        Raises:
            ValueError: they do not.
        """
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if data.image_size != self.network.image_size:
            raise ValueError(
                f"image_size of model and data must be the same, got {self.network.image_size} "
                f"and {data.image_size}"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say which system this is, and with what its network is made."""
        checkpoint[ENTRY] = {
            "system": self.system, "format": self.format, "version": __version__,
            "settings": self.network.settings, "seed": self._seed,
        }  # fmt: skip

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another system or format, or one that cannot be gone on from."""
        with fitting(self._source()):
            check_checkpoint(checkpoint, self.system, self.format)
            self._seed = checkpoint[ENTRY].get("seed")
            if self._trainer is not None and self.trainer.training:
                _check_step(checkpoint, self.trainer.accumulate_grad_batches)

    def load_state_dict(self, state_dict: Mapping[str, Any], *options: Any, **named: Any) -> Any:
        """As `nn.Module` does; what does not fit is a ValueError."""
        with fitting(self._source()):
            return super().load_state_dict(state_dict, *options, **named)

    def _source(self) -> str:
        path = None if self._trainer is None else self.trainer.ckpt_path
        return str(path or "the checkpoint")


def _check_step(checkpoint: dict[str, Any], accumulate: int) -> None:
    """Everything that training needs is there, and no step is half done."""
    for key in ("optimizer_states", "lr_schedulers"):
        checkpoint[key]  # a KeyError says which
    batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"]
    if batches != checkpoint["global_step"] * accumulate:
        raise ValueError(
            f"it has {batches} batches in {checkpoint['global_step']} steps of "
            f"trainer.accumulate_grad_batches {accumulate}: it was written inside a step, or with "
            "another value"
        )
