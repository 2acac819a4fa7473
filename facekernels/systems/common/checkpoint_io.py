"""Checkpoints that are never half written and never unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from facekernels.data.files import replacing
from facekernels.systems.common.checkpoint import read_checkpoint


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes beside the old file, syncs, renames; reads tensors and plain values only.

    A full disk or a kill while saving leaves the previous checkpoint as it was. Reading is
    `torch.load(weights_only=True)`: a file that holds any other object is refused, not executed.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Replace `path` by the new checkpoint."""
        with replacing(path) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read `path`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, or holds more than tensors and plain values.
        """
        return read_checkpoint(path, map_location)
