"""The released code's checkpoints, read and written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from facekernels.data.files import replacing
from facekernels.systems.common.checkpoint import read_checkpoint
from facekernels.systems.swinface.model import SwinFace

PARTS = ("backbone", "fam", "tss", "om")
"""Modules of `SwinFace`, and with ``state_dict_`` before them the keys of a published file."""


def load_published(path: str | Path) -> SwinFace:
    """The network of a file of the released code, in evaluation mode.

    The file holds ``state_dict_backbone``, ``state_dict_fam``, ``state_dict_tss`` and
    ``state_dict_om``; whatever else it holds is left alone. It is read without unpickling objects.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, holds other things than tensors and plain values, or does not
            fit; the sentence names the keys.
    """
    loaded = read_checkpoint(path)
    absent = [f"state_dict_{part}" for part in PARTS if f"state_dict_{part}" not in loaded]
    if absent:
        raise ValueError(
            f"{path} is not a SwinFace checkpoint: it lacks {', '.join(absent)} and has "
            f"{', '.join(sorted(map(str, loaded))[:8])}"
        )
    has_head = any(k.endswith("head.weight") for k in loaded["state_dict_backbone"])
    network = SwinFace(unused_head=has_head)
    for part in PARTS:
        _load(
            network.get_submodule(part), loaded[f"state_dict_{part}"], f"{path}: state_dict_{part}"
        )
    return network.eval()


def load_published_backbone(network: SwinFace, path: str | Path) -> None:
    """Start from the backbone of a published file, as the second stage of the training does.

    The class centres of ``state_dict_softmax_fc`` are not taken over, as published.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or does not fit.
    """
    loaded = read_checkpoint(path)
    if "state_dict_backbone" not in loaded:
        raise ValueError(
            f"{path} lacks state_dict_backbone and has {', '.join(sorted(map(str, loaded))[:8])}"
        )
    state = _stripped(loaded["state_dict_backbone"])
    if not hasattr(network.backbone, "head"):
        state = {k: v for k, v in state.items() if not k.startswith("head.")}
    _load(network.backbone, state, f"{path}: state_dict_backbone")


def save_published(network: SwinFace, path: str | Path) -> None:
    """Write `network` in the layout of the released code."""
    parts = {f"state_dict_{part}": network.get_submodule(part).state_dict() for part in PARTS}
    with replacing(path) as temporary:
        torch.save(parts, temporary)


def _stripped(state: Mapping[str, Any]) -> dict[str, Any]:
    return {key.removeprefix("module."): value for key, value in state.items()}


def _load(module: nn.Module, state: Mapping[str, Any], where: str) -> None:
    given, own = _stripped(state), module.state_dict()
    missing, unexpected = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    wrong = [k for k in own.keys() & given.keys()
             if not isinstance(given[k], Tensor) or given[k].shape != own[k].shape]  # fmt: skip
    if missing or unexpected or wrong:
        said = [
            f"{len(keys)} {what} ({', '.join(sorted(keys)[:3])})"
            for keys, what in (
                (missing, "keys missing"), (unexpected, "keys unknown"),
                (wrong, "tensors of another shape"),
            )
            if keys
        ]  # fmt: skip
        raise ValueError(f"{where} does not fit: {', '.join(said)}")
    module.load_state_dict(given)
