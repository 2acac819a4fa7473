"""The progress of a training that counts steps."""

from __future__ import annotations

from lightning.pytorch.callbacks import RichProgressBar


class StepProgressBar(RichProgressBar):
    """Rich's, without a number of epochs: there is one pass, of no fixed length."""

    @property
    def total_train_batches(self) -> int | float:
        """All batches, where Rich's takes the steps that are left when the run starts."""
        return self.trainer.num_training_batches

    def _get_train_description(self, current_epoch: int) -> str:
        return "Training".ljust(len(self.validation_description))
