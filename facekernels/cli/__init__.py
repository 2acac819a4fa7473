"""The `facekernels` command: info, demo, bench, cluster, data, systems' training, reproduce."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial

from facekernels._version import __version__
from facekernels.systems.registry import PREDICTING, SYSTEMS, TRAINED


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command; the exit code is 0, 1 (failed), 2 (wrong use) or 130 (Ctrl-C)."""
    try:
        return _dispatch(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `facekernels info | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _dispatch(argv: list[str]) -> int:
    # The sub-commands parse their own arguments, so that none is imported before it is needed.
    commands: dict[str, Callable[[list[str]], int]] = {
        "info": _info, "demo": _demo, "bench": _bench, "cluster": _cluster,
        "reproduce": _reproduce, "predict": _predict, "data": _data,
        **{name: partial(_train, name) for name in ("fit", "validate", "test")},
    }  # fmt: skip
    if argv and argv[0] in commands:
        return commands[argv[0]](argv[1:])
    parser = argparse.ArgumentParser(
        "facekernels",
        description="Fused kernels for face analysis, as drop-in PyTorch ops.",
        epilog="`facekernels COMMAND --help` shows the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"facekernels {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    subparsers.add_parser("info", help="versions, back ends, devices, and what every op supports")
    subparsers.add_parser("demo", help="run, check and time the ops on real photographs")
    subparsers.add_parser("bench", help="run the benchmarks of a source checkout")
    subparsers.add_parser("cluster", help="cluster faces by their features")
    subparsers.add_parser("data", help="check the files of a data set")
    subparsers.add_parser("fit", help=f"train a system: {', '.join(TRAINED)}")
    subparsers.add_parser("validate", help="evaluate a training on its validation split")
    subparsers.add_parser("test", help="evaluate a training on its test split")
    subparsers.add_parser(
        "predict", help=f"say what a trained system sees in image files: {', '.join(PREDICTING)}"
    )
    subparsers.add_parser("reproduce", help=f"run a comparison again: {', '.join(SYSTEMS)}")
    parser.parse_args(argv)
    parser.print_help()
    return 0


def _info(argv: list[str]) -> int:
    from facekernels import collect_env

    return collect_env.main(argv)


def _demo(argv: list[str]) -> int:
    try:
        from facekernels.cli.demo import main

        return main(argv)
    except ModuleNotFoundError as error:
        return _missing("demo", error)


def _bench(argv: list[str]) -> int:
    try:
        from facekernels.cli import bench

        return bench.main(argv)
    except ModuleNotFoundError as error:
        return _missing("bench", error)


def _cluster(argv: list[str]) -> int:
    try:
        from facekernels.cli import cluster

        return cluster.main(argv)
    except ModuleNotFoundError as error:
        return _missing("cluster", error, extra="systems,train,scale")


def _reproduce(argv: list[str]) -> int:
    try:
        from facekernels.cli import reproduce

        return reproduce.main(argv)
    except ModuleNotFoundError as error:
        return _missing("reproduce", error, extra="systems,train,scale")


def _train(command: str, argv: list[str]) -> int:
    try:
        from facekernels.cli import systems

        return systems.main(command, argv)
    except ModuleNotFoundError as error:
        return _missing(command, error, extra="systems,train")


def _predict(argv: list[str]) -> int:
    try:
        from facekernels.cli import predict

        return predict.main(argv)
    except ModuleNotFoundError as error:
        return _missing("predict", error, extra="systems")


def _data(argv: list[str]) -> int:
    try:
        from facekernels.cli import data

        return data.main(argv)
    except ModuleNotFoundError as error:
        return _missing("data", error, extra="systems")


def _missing(command: str, error: ModuleNotFoundError, extra: str | None = None) -> int:
    print(
        f"facekernels {command} needs the Python module {error.name}, which is not installed. "
        f"Install it with: pip install 'facekernels[{extra or command}]'",
        file=sys.stderr,
    )
    return 2
