"""`facekernels fit|validate|test SYSTEM`: which system, and which configuration."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from facekernels.systems.registry import TRAINED


def main(command: str, argv: Sequence[str]) -> int:
    """Run `command`, one of fit, validate and test, of the system named first in `argv`."""
    usage = f"usage: facekernels {command} SYSTEM [--config small|paper|FILE] [OPTIONS]"
    if argv and argv[0] in ("-h", "--help"):
        print(f"{usage}\nSYSTEM is one of {', '.join(TRAINED)}, and has a --help of its own.")
        return 0
    if not argv or argv[0] not in TRAINED:
        got = f"got {argv[0]!r}" if argv and not argv[0].startswith("-") else "none was given"
        print(f"{usage}\nSYSTEM must be one of {', '.join(TRAINED)}: {got}", file=sys.stderr)
        return 2
    system, *rest = argv
    from facekernels.cli.system_cli import run

    try:
        run(command, system, _packaged(system, rest))
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
