"""Reading a training's checkpoint: tensors and plain values, of the system that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)

ENTRY = "facekernels"
"""The key of a checkpoint under which a system describes itself."""


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """The dictionary in a checkpoint file, of tensors and plain values.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or holds more than tensors and plain values.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"checkpoint not found: {path}")
    try:
        loaded = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # of many types: files of another kind hold anything
        raise ValueError(
            f"{path} is not a checkpoint of tensors and plain values: {_reason(error)}"
        ) from error
    if not isinstance(loaded, dict):
        raise ValueError(f"{path} must hold a dictionary, got {type(loaded).__name__}")
    return loaded


def check_checkpoint(checkpoint: dict[str, Any], system: str, version: int) -> None:
    """A checkpoint must be one of `system`, in format `version`.

    Raises:
        ValueError: it is not; the sentence says what it is.
    """
    entry = checkpoint.get(ENTRY)
    if not isinstance(entry, dict):
        raise ValueError(
            f"the checkpoint must be one of facekernels' {system}, got one that does not name its "
            f"system (keys {', '.join(sorted(map(str, checkpoint))[:6])})"
        )
    if entry.get("system") != system:
        raise ValueError(
            f"the checkpoint must be one of {system}, got one of {entry.get('system')}"
        )
    if entry.get("format") != version:
        raise ValueError(
            f"the checkpoint of {system} must have format {version}, got format "
            f"{entry.get('format')} written by facekernels {entry.get('version')}"
        )


def build_network(
    make: Callable[..., Network],
    checkpoint: dict[str, Any],
    path: str | Path,
    system: str,
    version: int,
) -> Network:
    """The network in a training's checkpoint, in evaluation mode.

    Args:
        make: the network's class, called with the settings that the checkpoint names.
        checkpoint: what `read_checkpoint` gave.
        path: where it was read, for the message.
        system: the name under `facekernels.systems`.
        version: the format that fits.

    Raises:
        ValueError: the checkpoint is of another system or format, or does not fit the class.
    """
    with fitting(path):
        settings, state = model_of_checkpoint(checkpoint, system, version)
        network = make(**settings)
        network.load_state_dict(state)
    return network.eval()


@contextmanager
def fitting(path: str | Path | None) -> Iterator[None]:
    """Whatever fails inside is a ValueError that says `path` does not fit, and why."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{path} cannot be used: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """One line. That of `load_state_dict` is a heading, followed by what does not fit."""
    if isinstance(error, KeyError):
        key = error.args[0]
        return f"it has no {key!r}" if isinstance(key, str) else f"unknown key {key!r}"
    first, *others = (str(error) or type(error).__name__).splitlines()
    return f"{first} {others[0].strip()}" if others and first.endswith(":") else first


def model_of_checkpoint(
    checkpoint: dict[str, Any], system: str, version: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and state dict of the network in a training's checkpoint.

    Raises:
        ValueError: it is not a checkpoint of `system` in format `version`.
    """
    check_checkpoint(checkpoint, system, version)
    prefix = "network."
    state = {k[len(prefix) :]: v for k, v in checkpoint["state_dict"].items()
             if k.startswith(prefix)}  # fmt: skip
    return checkpoint[ENTRY]["settings"], state


def backbone_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of the backbone in a checkpoint, under the backbone's own names.

    The file is one of the released SwinFace or MEK (``"state_dict_backbone"``), a training of a
    system here (``network.backbone.`` in ``"state_dict"``), or a state dict of the backbone, alone
    or under ``"state_dict"``. ``module.`` of DistributedDataParallel goes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or holds no tensors in one of these places.
    """
    loaded = read_checkpoint(path)
    state = loaded.get("state_dict_backbone", loaded.get("state_dict", loaded))
    named = state.items() if isinstance(state, dict) else ()
    tensors = {k.removeprefix("module."): v for k, v in named if isinstance(v, Tensor)}
    if not tensors:
        keys = ", ".join(sorted(map(str, loaded))[:8])
        raise ValueError(f"{path} must hold the tensors of a backbone, got the keys {keys}")
    prefix = "network.backbone."
    own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return own or tensors


def load_state(
    module: nn.Module, given: Mapping[str, Any], where: str, optional: tuple[str, ...] = ()
) -> None:
    """`module.load_state_dict(given)`, with a sentence on what does not fit.

    Args:
        module: takes the tensors.
        given: name to tensor.
        where: the file and the part of it, for the message.
        optional: prefixes of names that may be on one side only.

    Raises:
        ValueError: names are missing or unknown, or shapes differ.
    """
    own = module.state_dict()
    given = {k: v for k, v in given.items() if k in own or not k.startswith(optional)}
    missing = sorted(k for k in own.keys() - given.keys() if not k.startswith(optional))
    unknown = sorted(given.keys() - own.keys())
    wrong = sorted(
        k
        for k in own.keys() & given.keys()
        if not isinstance(given[k], Tensor) or given[k].shape != own[k].shape
    )
    kinds = {"keys missing": missing, "keys unknown": unknown, "tensors of another shape": wrong}
    said = [f"{len(keys)} {kind} ({', '.join(keys[:3])})" for kind, keys in kinds.items() if keys]
    if said:
        raise ValueError(f"{where} does not fit: {', '.join(said)}")
    module.load_state_dict(given, strict=False)
