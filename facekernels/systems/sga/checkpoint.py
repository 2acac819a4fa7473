"""Checkpoints of a training run: written atomically, continued only with the same settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from facekernels.data.files import replacing

_FORMAT = "facekernels UAPTrainer checkpoint 1"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` so that a crash at any moment leaves the old file or the new one."""
    with replacing(path) as temporary:
        torch.save({"format": _FORMAT, **state}, temporary)


def load_checkpoint(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The state in `path`, on the CPU.

    Raises:
        ValueError: it is not such a checkpoint, or was made with other settings; names them.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"checkpoint {path} cannot be read: {error}") from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise ValueError(f"checkpoint {path} is not a {_FORMAT!r}")
    saved: dict[str, Any] = state["settings"]
    for name in sorted({*saved, *settings}):
        before, now = saved.get(name), settings.get(name)
        if before != now:
            raise ValueError(
                f"checkpoint {path} was made with {name} = {before!r}, now {name} = {now!r}; "
                "pass resume=False to start anew"
            )
    return state
