"""`facekernels fit|validate|test SYSTEM`: Lightning's command line for the published systems."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from facekernels.systems.registry import SYSTEMS, TRAINED


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
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import ProgressBar
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

    from facekernels.systems.common.checkpoint_io import SafeCheckpointIO
    from facekernels.systems.common.progress_bar import StepProgressBar

    class SystemCLI(LightningCLI):
        """With `trainer_defaults`, one seed, and checkpoints that are never unpickled."""

        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.add_argument(
                "--ckpt_path",
                type=str | None,
                default=None,
                help="checkpoint to go on from" if command == "fit" else "checkpoint to evaluate",
            )
            parser.set_defaults(trainer_defaults(system) | {"data.seed": None})

        def before_instantiate_classes(self) -> None:
            if self.config.data.seed is None:
                self.config.data.seed = int(self.config.seed_everything)

        def instantiate_trainer(self, **options: Any) -> Trainer:
            given = self.config_init.trainer
            plugins = [SafeCheckpointIO(), *_listed(given.plugins)]
            callbacks = _listed(given.callbacks)
            bar = given.enable_progress_bar is not False
            if bar and not any(isinstance(c, ProgressBar) for c in callbacks):
                callbacks.append(StepProgressBar())
            return super().instantiate_trainer(plugins=plugins, callbacks=callbacks, **options)

    # It would rather read sys.argv, which here names the system, too, and which DDP runs again.
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended")
    try:
        cli = SystemCLI(
            getattr(import_module(f"facekernels.systems.{system}.task"), SYSTEMS[system].task),
            getattr(import_module(f"facekernels.systems.{system}.data"), SYSTEMS[system].data),
            args=_packaged(system, argv),
            run=False,
            parser_kwargs={
                "prog": f"facekernels {command} {system}",
                "description": f"{command.capitalize()} {system}.",
            },
            save_config_kwargs={"overwrite": True},
            seed_everything_default=2048,
            auto_configure_optimizers=False,
        )
        run = getattr(cli.trainer, command)
        try:
            run(cli.model, datamodule=cli.datamodule, ckpt_path=cli.config.ckpt_path)
        except SystemExit:  # Lightning's answer to Ctrl-C
            if cli.trainer.interrupted:
                raise KeyboardInterrupt from None
            raise
    except MisconfigurationException as error:
        raise ValueError(str(error)) from error


def trainer_defaults(system: str) -> dict[str, Any]:
    """Defaults of a system's trainer: steps instead of epochs, two logs, the last and the best.

    They are as in a configuration file, which can change each of them.
    """
    callbacks: list[dict[str, Any]] = [
        {"class_path": "facekernels.systems.common.last_checkpoint.LastCheckpoint"}
    ]
    if SYSTEMS[system].best:
        callbacks.append({
            "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
            "init_args": {"monitor": SYSTEMS[system].best, "mode": "max", "filename": "best"},
        })  # fmt: skip
    logs = {"CSVLogger": ("runs", system), "TensorBoardLogger": (f"runs/{system}", "tensorboard")}
    return {
        "trainer.max_epochs": -1,  # one pass of the loader is the whole training
        "trainer.use_distributed_sampler": False,  # the loaders share the images out
        "trainer.check_val_every_n_epoch": None,  # the interval counts steps
        "trainer.val_check_interval": 1000,
        "trainer.logger": [
            {
                "class_path": f"lightning.pytorch.loggers.{log}",
                "init_args": {"save_dir": folder, "name": name},
            }
            for log, (folder, name) in logs.items()
        ],
        "trainer.callbacks": callbacks,
    }


def _listed(given: Any) -> list[Any]:
    """An option of the trainer that takes none, one or several."""
    return list(given) if isinstance(given, list) else [] if given is None else [given]


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
