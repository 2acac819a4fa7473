"""`facekernels fit|validate|test SYSTEM`: Lightning's command line for the published systems."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

SYSTEMS = {
    "balanced_fer": ("ExpressionTask", "ExpressionData"),
    "swinface": ("SwinFaceTask", "SwinFaceData"),
}
"""Folders of `facekernels.systems`, with the classes in their `task.py` and `data.py`."""


def main(command: str, argv: Sequence[str]) -> int:
    """Run `command`, one of fit, validate and test, of the system named first in `argv`."""
    if not argv or argv[0] not in SYSTEMS:
        got = f"got {argv[0]!r}" if argv and not argv[0].startswith("-") else "none was given"
        print(
            f"usage: facekernels {command} SYSTEM [--config small|paper|FILE] [OPTIONS]\n"
            f"SYSTEM must be one of {', '.join(SYSTEMS)}: {got}",
            file=sys.stderr,
        )
        return 0 if argv and argv[0] in ("-h", "--help") else 2
    system, *rest = argv
    try:
        _run(command, system, rest)
    except (OSError, ValueError) as error:  # the sentence says what to do
        print(f"facekernels {command} {system}: {error}", file=sys.stderr)
        return 1
    return 0


def configuration(system: str, name: str) -> Path:
    """The file of a packaged configuration such as "small".

    Raises:
        ValueError: the system has none of that name.
    """
    folder = Path(import_module(f"facekernels.systems.{system}").__path__[0]) / "configs"
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise ValueError(f"{system} has the configurations {known}, got {name!r}")
    return path


def _run(command: str, system: str, argv: list[str]) -> None:
    from lightning.pytorch import Trainer
    from lightning.pytorch.cli import LightningCLI

    from facekernels.systems.common.checkpoint_io import SafeCheckpointIO

    class SystemCLI(LightningCLI):
        """With checkpoints that are replaced atomically and never unpickled."""

        def instantiate_trainer(self, **options: Any) -> Trainer:
            given = self._get(self.config_init, "trainer", default={}).get("plugins") or []
            given = given if isinstance(given, list) else [given]
            return super().instantiate_trainer(plugins=[SafeCheckpointIO(), *given], **options)

    # It would rather read sys.argv, which here names the system, too, and which DDP runs again.
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended")
    task, data = SYSTEMS[system]
    SystemCLI(
        getattr(import_module(f"facekernels.systems.{system}.task"), task),
        getattr(import_module(f"facekernels.systems.{system}.data"), data),
        args=[command, *_packaged(system, argv)],
        parser_kwargs={"prog": f"facekernels (system {system})"},
        save_config_kwargs={"overwrite": True},
        seed_everything_default=2048,
        auto_configure_optimizers=False,
    )


def _packaged(system: str, argv: list[str]) -> list[str]:
    """`--config small` means the packaged file, unless there is a file of that name."""
    words = list(argv)
    for i, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag in ("-c", "--config"):
            if equals and _is_name(value):
                words[i] = f"{flag}={configuration(system, value)}"
            elif not equals and i + 1 < len(words) and _is_name(words[i + 1]):
                words[i + 1] = str(configuration(system, words[i + 1]))
    return words


def _is_name(value: str) -> bool:
    return value.isidentifier() and not Path(value).exists()
