"""Checkpoints: the released code's, read and written, and weights to start from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from facekernels.data.files import replacing
from facekernels.systems.common.checkpoint import (
    backbone_state,
    load_state,
    model_of_checkpoint,
    read_checkpoint,
)
from facekernels.systems.swinface.model import FORMAT, SYSTEM, SwinFace

PARTS = ("backbone", "fam", "tss", "om")
"""Modules of `SwinFace`, and with ``state_dict_`` before them the keys of a published file."""


def load_published(path: str | Path) -> SwinFace:
    """The network of a file of the released code, in evaluation mode.

    The file holds ``state_dict_backbone``, ``state_dict_fam``, ``state_dict_tss`` and
    ``state_dict_om``; that of the first stage the backbone alone, which gives a network without
    analysis tasks. Whatever else it holds is left alone. It is read without unpickling objects.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, holds other things than tensors and plain values, or does not
            fit; the sentence names the keys.
    """
    states = _published(read_checkpoint(path), path)
    has_head = any(k.endswith("head.weight") for k in states["backbone"])
    network = SwinFace(tasks=None if "fam" in states else [], unused_head=has_head)
    _load_parts(network, states, path)
    return network.eval()


def load_network(network: SwinFace, path: str | Path) -> None:
    """Take all weights of `network` from a published file or a training's checkpoint.

    What the file has beyond the network's modules is left alone.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, of another system, or does not fit; the sentence names the keys.
    """
    loaded = read_checkpoint(path)
    if "state_dict_backbone" in loaded:
        states = _published(loaded, path)
    else:
        _, state = model_of_checkpoint(loaded, SYSTEM, FORMAT)
        states = {}
        for key, value in state.items():
            part, _, name = key.partition(".")
            states.setdefault(part, {})[name] = value
    _load_parts(network, states, path)


def load_backbone(network: SwinFace, path: str | Path) -> None:
    """Start from the backbone of a checkpoint, as the second stage of the training does.

    `facekernels.systems.common.checkpoint.backbone_state` says which files it may be. Class
    centres are not taken over, as published.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or does not fit; the sentence names the keys.
    """
    load_state(network.backbone, backbone_state(path), f"{path}: backbone", _UNREAD)


def save_published(network: SwinFace, path: str | Path) -> None:
    """Write `network` in the layout of the released code.

    A network without analysis tasks gives what the first stage writes, the backbone alone.
    """
    parts = {f"state_dict_{part}": module.state_dict() for part, module in _modules(network)}
    with replacing(path) as temporary:
        torch.save(parts, temporary)


def _modules(network: SwinFace) -> list[tuple[str, nn.Module]]:
    return [(part, network.get_submodule(part)) for part in PARTS if hasattr(network, part)]


def _published(loaded: Mapping[str, Any], path: str | Path) -> dict[str, dict[str, Any]]:
    """Part to its state dict: all of `PARTS`, or the backbone alone."""
    states = {part: _stripped(loaded[f"state_dict_{part}"])
              for part in PARTS if f"state_dict_{part}" in loaded}  # fmt: skip
    if list(states) not in (["backbone"], list(PARTS)):
        absent = [f"state_dict_{part}" for part in PARTS if part not in states]
        raise ValueError(
            f"{path} is not a SwinFace checkpoint: it lacks {', '.join(absent)} and has "
            f"{', '.join(sorted(map(str, loaded))[:8])}"
        )
    return states


def _stripped(state: Mapping[str, Any]) -> dict[str, Any]:
    return {key.removeprefix("module."): value for key, value in state.items()}


def _load_parts(
    network: SwinFace, states: Mapping[str, Mapping[str, Any]], path: str | Path
) -> None:
    for part, module in _modules(network):
        load_state(module, states.get(part, {}), f"{path}: {part}", _UNREAD)


# The backbone's layer that nothing reads may be in the file or in the network only.
_UNREAD = ("head.",)
