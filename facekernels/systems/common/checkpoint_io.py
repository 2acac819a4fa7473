"""Checkpoints that are never half written and never unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from facekernels.data.files import replacing
from facekernels.systems.common.checkpoint import ENTRY, read_checkpoint

_KEYS = (ENTRY, "state_dict", "global_step", "loops", "pytorch-lightning_version")
"""What Lightning reads without a look, and whose checkpoint it is."""


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes beside the old file, syncs, renames; reads tensors and plain values only.

    A full disk or a kill while saving leaves the previous checkpoint as it was. Reading is
    `torch.load(weights_only=True)`: a file that holds any other object is refused, not executed.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Replace `path` by the new checkpoint.

        Raises:
            OSError: the disk is full, or the file cannot be written for another reason.
        """
        try:
            with replacing(path) as temporary:
                torch.save(checkpoint, temporary)
        except RuntimeError as error:  # torch's writer says no more about a full disk
            reason = str(error).partition("\n")[0]
            raise OSError(f"{path} cannot be written (is the disk full?): {reason}") from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read `path`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, holds more than tensors and plain values, or is not of a
                training.
        """
        checkpoint = read_checkpoint(path, map_location)
        missing = [key for key in _KEYS if key not in checkpoint]
        if missing:
            raise ValueError(
                f"{path} is not a checkpoint of a training: it has no {', '.join(missing)}"
            )
        return checkpoint
