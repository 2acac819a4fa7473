"""The checkpoint that an interrupted training goes on from."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info


class LastCheckpoint(Checkpoint):
    """Replaces `checkpoints/last.ckpt` in the log's folder, with and without validation.

    In a training of one process, Ctrl-C takes effect at the end of a step, which is saved; a second
    one takes effect at once.

    Args:
        every_n_steps: how often; the end of the training is written in any case.
    """

    def __init__(self, every_n_steps: int = 500) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        self.every_n_steps = every_n_steps
        self._saved = self._done = 0
        self._interrupted = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A continued training has its step saved already. Take Ctrl-C over.

        Several processes could stop at different steps; a handler of somebody else's stays.
        Lightning's teardown, which follows errors, too, puts the old one back.
        """
        self._saved = self._done = trainer.global_step
        self._interrupted = False
        main = threading.current_thread() is threading.main_thread()
        plain = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if main and plain and trainer.world_size == 1:
            signal.signal(signal.SIGINT, self._interrupt)

    def on_train_batch_end(self, trainer: Trainer, *rest: Any) -> None:
        """Save when a step ends, never between the batches that it accumulates."""
        if trainer.global_step == self._done:
            return
        self._done = trainer.global_step
        if self._interrupted or self._done % self.every_n_steps == 0:
            self._save(trainer)
        if self._interrupted:
            raise KeyboardInterrupt

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the final weights."""
        self._save(trainer)
        if self._interrupted:  # after the last step, in a validation for example
            raise KeyboardInterrupt

    def _interrupt(self, *_: Any) -> None:
        self._interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        rank_zero_info("\nStopping at the end of a step. Ctrl-C again stops at once.")

    def _save(self, trainer: Trainer) -> None:
        if trainer.global_step != self._saved and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._saved = trainer.global_step
            path = _folder(trainer) / "checkpoints" / "last.ckpt"
            trainer.save_checkpoint(path, weights_only=False)


def _folder(trainer: Trainer) -> Path:
    """Where `ModelCheckpoint` has its own, too."""
    logger = trainer.logger
    if logger is None:
        return Path(trainer.default_root_dir)
    version = logger.version
    named = version if isinstance(version, str) else f"version_{version}"
    return Path(logger.save_dir or trainer.default_root_dir, str(logger.name), named)
