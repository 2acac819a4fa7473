"""The LightningModule that the trained systems derive from."""

from __future__ import annotations

from typing import Any, ClassVar

import lightning
import torch
from torch import nn

from facekernels._version import __version__
from facekernels.systems.common.checkpoint import ENTRY, check_checkpoint


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

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed the step; processes get different numbers."""
        assert self._seed is not None
        torch.manual_seed((self._seed << 24) + (batch_idx << 8) + self.global_rank)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say which system this is, and with what its network is made."""
        checkpoint[ENTRY] = {
            "system": self.system, "format": self.format, "version": __version__,
            "settings": self.network.settings, "seed": self._seed,
        }  # fmt: skip

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another system or format."""
        check_checkpoint(checkpoint, self.system, self.format)
        self._seed = checkpoint[ENTRY].get("seed")
