"""Lightning's command line for one system."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from facekernels.systems.common.checkpoint_io import SafeCheckpointIO
from facekernels.systems.common.progress_bar import StepProgressBar
from facekernels.systems.registry import SYSTEMS


def run(command: str, system: str, argv: list[str]) -> None:
    """Fit, validate or test `system`.

    Raises:
        OSError, ValueError: a file or an option cannot be used.
        KeyboardInterrupt: Ctrl-C, or another signal to end.
    """
    # It would rather read sys.argv, which here names the system, too, and which DDP runs again.
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended")
    try:
        cli = SystemCLI(command, system, argv)
        cli.run()
    except MisconfigurationException as error:
        raise ValueError(str(error)) from error


class SystemCLI(LightningCLI):
    """With `trainer_defaults`, one seed, and checkpoints that are never unpickled.

    Args:
        command: fit, validate or test.
        system: a trained one of the registry.
        argv: the options.
    """

    def __init__(self, command: str, system: str, argv: list[str]) -> None:
        self.command, self.system = command, system
        folder, known = f"facekernels.systems.{system}", SYSTEMS[system]
        super().__init__(
            getattr(import_module(f"{folder}.task"), known.task),
            getattr(import_module(f"{folder}.data"), known.data),
            args=argv,
            run=False,  # which would add predict, and a parser for each
            parser_kwargs={
                "prog": f"facekernels {command} {system}",
                "description": f"{command.capitalize()} {system}.",
            },
            save_config_kwargs={"overwrite": True},
            seed_everything_default=2048,
            auto_configure_optimizers=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The checkpoint, and the defaults."""
        use = "go on from" if self.command == "fit" else "evaluate"
        parser.add_argument(
            "--ckpt_path", type=str | None, default=None, help=f"checkpoint to {use}"
        )
        parser.set_defaults(trainer_defaults(self.system) | {"data.seed": None})

    def before_instantiate_classes(self) -> None:
        """One seed for everything, unless the data has its own."""
        if self.config.data.seed is None:
            self.config.data.seed = int(self.config.seed_everything)

    def instantiate_trainer(self, **options: Any) -> Trainer:
        """Add what no configuration changes, and the progress bar if it has none."""
        given = self.config_init.trainer
        plugins = [SafeCheckpointIO(), *_listed(given.plugins)]
        callbacks = _listed(given.callbacks)
        bar = given.enable_progress_bar is not False
        if bar and not any(isinstance(c, ProgressBar) for c in callbacks):
            callbacks.append(StepProgressBar())
        return super().instantiate_trainer(plugins=plugins, callbacks=callbacks, **options)

    def run(self) -> None:
        """Run the command."""
        method = getattr(self.trainer, self.command)
        try:
            method(self.model, datamodule=self.datamodule, ckpt_path=self.config.ckpt_path)
        except SystemExit:  # Lightning's answer to signals
            if self.trainer.interrupted:
                raise KeyboardInterrupt from None
            raise


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
        "trainer.max_epochs": -1,  # steps are counted
        "trainer.use_distributed_sampler": False,  # the loaders share the images out
        "trainer.check_val_every_n_epoch": None,  # the interval counts batches of the training
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
