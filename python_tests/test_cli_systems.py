"""`facekernels fit|validate|test|predict` of the trained systems."""

from __future__ import annotations

import contextlib
import csv
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from facekernels.cli import main
from facekernels.cli.systems import configuration
from facekernels.systems.balanced_fer.task import ExpressionTask
from facekernels.systems.registry import PREDICTING, SYSTEMS, TRAINED

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

QUICK = [
    "balanced_fer", "--config", "small", "--data.largest", "6", "--data.test_per_class", "2",
    "--data.image_size", "32", "--model.image_size", "32", "--data.batch_size", "8",
    "--trainer.max_steps", "2", "--trainer.val_check_interval", "2",
    "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training's log."""
    folder = tmp_path_factory.mktemp("trained")
    with contextlib.chdir(folder):
        assert main(["fit", *QUICK]) == 0
    return folder / "runs" / "balanced_fer" / "version_0"


def test_a_training_leaves_logs_configuration_and_checkpoints(trained: Path) -> None:
    assert "val/mean_accuracy" in (trained / "metrics.csv").read_text()
    assert {p.name for p in (trained / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2
    assert list(trained.parent.glob("tensorboard/version_0/events*"))


def test_the_stored_configuration_trains_the_same_again(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "balanced_fer", "--config", str(trained / "config.yaml")]) == 0
    last = Path("checkpoints/last.ckpt")
    first, second = (
        torch.load(folder / last, weights_only=True)["state_dict"]
        for folder in (trained, Path("runs/balanced_fer/version_0"))
    )
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def test_test_draws_the_confusion_matrix(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = str(trained / "checkpoints" / "best.ckpt")
    assert main(["test", *QUICK, "--ckpt_path", checkpoint]) == 0
    assert (tmp_path / "runs" / "balanced_fer" / "version_0" / "confusion.png").is_file()


LAST = (
    "[{class_path: facekernels.systems.common.last_checkpoint.LastCheckpoint, "
    "init_args: {every_n_steps: 2}}]"
)
FIVE = ["fit", *QUICK, "--trainer.max_steps", "5", "--trainer.callbacks", LAST]


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Python's handler, which a shell may have replaced, and Lightning does."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@contextlib.contextmanager
def _during(batch: int, action: Callable[[], None]) -> Iterator[None]:
    """Trainings in it run `action` in this batch."""
    step = ExpressionTask.training_step

    def training_step(task: ExpressionTask, data: dict[str, Tensor], number: int) -> Tensor:
        if number == batch:
            action()
        return step(task, data, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ExpressionTask, "training_step", training_step)
        yield


def _interrupt() -> None:
    """As a terminal does it: also the loader's processes."""
    for child in multiprocessing.active_children():
        assert child.pid is not None
        os.kill(child.pid, signal.SIGINT)
        child.join(0.3)
        assert child.is_alive()
    signal.raise_signal(signal.SIGINT)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(("accumulate", "workers"), [(1, 0), (2, 2)])
def test_an_interrupted_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int, workers: int
) -> None:
    """Ctrl-C exits with 130 after the running step; going on gives the weights of a whole one."""
    monkeypatch.chdir(tmp_path)
    command = [*FIVE, "--trainer.accumulate_grad_batches", str(accumulate),
               "--data.workers", str(workers)]  # fmt: skip
    assert main(command) == 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with _during(2 * accumulate, _interrupt):
        assert main(command) == 130
    runs = tmp_path / "runs" / "balanced_fer"
    last = runs / "version_1" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 3
    assert main([*command, "--ckpt_path", str(last)]) == 0
    whole, continued = (
        torch.load(runs / f"version_{k}" / "checkpoints" / "last.ckpt", weights_only=True)
        for k in (0, 2)
    )
    assert whole["global_step"] == continued["global_step"] == 5
    for key, value in whole["state_dict"].items():
        assert torch.equal(value, continued["state_dict"][key]), key


def _interrupt_twice() -> None:
    _interrupt()
    _interrupt()


def _fail() -> None:
    raise RuntimeError("in a step")


@pytest.mark.usefixtures("ctrl_c")
def test_a_second_ctrl_c_interrupts_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with _during(3, _interrupt_twice):
        assert main(FIVE) == 130
    (last,) = tmp_path.glob("runs/**/last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == 2


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_in_the_last_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ExpressionTask, "on_validation_start", lambda _: _interrupt())
    assert main(["fit", *QUICK, "--trainer.num_sanity_val_steps", "0"]) == 130
    assert {p.name for p in tmp_path.glob("runs/**/*.ckpt")} == {"best.ckpt", "last.ckpt"}


@pytest.mark.usefixtures("ctrl_c")
def test_an_error_leaves_ctrl_c_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with _during(0, _fail), pytest.raises(RuntimeError, match="in a step"):
        main(FIVE)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_more_steps_continue_a_finished_training(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    more = ["--trainer.max_steps", "3", "--trainer.log_every_n_steps", "1"]
    last = str(trained / "checkpoints" / "last.ckpt")
    assert main(["fit", *QUICK, *more, "--ckpt_path", last]) == 0
    (written,) = tmp_path.glob("runs/**/last.ckpt")
    assert torch.load(written, weights_only=True)["global_step"] == 3


def _changed(checkpoint: dict[str, Any], name: str) -> Any:
    if name == "foreign":
        return {"model": torch.ones(2)}
    if name == "shape":
        checkpoint["state_dict"]["network.head.weight"] = torch.ones(3, 3)
    if name == "optimizer":
        del checkpoint["optimizer_states"]
    if name == "system":
        checkpoint["facekernels"]["system"] = "swinface"
    return checkpoint


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("foreign", "it has no facekernels"),
        ("shape", "size mismatch for network.head.weight"),
        ("optimizer", "it has no 'optimizer_states'"),
        ("system", "must be one of balanced_fer, got one of swinface"),
        ("cut", "is not a checkpoint of tensors and plain values"),
    ],
)
def test_checkpoints_that_do_not_fit_are_named(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    last = trained / "checkpoints" / "last.ckpt"
    if name == "cut":
        Path("cut.ckpt").write_bytes(last.read_bytes()[:5000])
    else:
        torch.save(_changed(torch.load(last, weights_only=True), name), f"{name}.ckpt")
    capsys.readouterr()
    assert main(["fit", *QUICK, "--ckpt_path", f"{name}.ckpt"]) == 1
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert sentence.startswith(f"facekernels fit balanced_fer: {name}.ckpt ")
    assert reason in sentence


def test_another_optimizer_cannot_go_on(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    last = str(trained / "checkpoints" / "last.ckpt")
    sgd = ["--model.optimization.optimizer", "sgd", "--trainer.max_steps", "3"]
    assert main(["fit", *QUICK, *sgd, "--ckpt_path", last]) == 1
    assert "it is of another optimizer than SGD" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "seed"),
    [
        ([], 2048),
        (["--seed_everything", "7"], 7),
        (["--seed_everything", "7", "--data.seed", "0"], 0),
        (["--seed_everything", "false"], 0),
    ],
)
def test_one_seed_unless_two_are_given(
    arguments: list[str], seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    monkeypatch.setattr(
        lightning.pytorch.Trainer, "fit", lambda *_, datamodule, **__: given.append(datamodule)
    )
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *QUICK, *arguments]) == 0
    assert given[0].seed == seed


def test_predict(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Path("other").mkdir()
    for name in ("face.png", "other/face.png"):
        Image.fromarray(pixels).save(name)
    Path("broken.png").write_bytes(b"no image")
    command = ["predict", "balanced_fer", "--checkpoint", str(trained / "checkpoints/last.ckpt")]
    code = main([*command, "face.png", "broken.png", "other/face.png", "--output", "drawn"])
    out, err = capsys.readouterr()
    assert code == 1
    assert out.startswith("face.png: ")
    assert out.count("%") == 14
    assert err.startswith("broken.png cannot be read as an image")
    assert sorted(p.name for p in Path("drawn").iterdir()) == ["face-2.png", "face.png"]
    assert Image.open("drawn/face.png").width > 320
    assert main(["predict", "balanced_fer", "face.png", "--checkpoint", "none.ckpt"]) == 1
    assert "checkpoint not found: none.ckpt" in capsys.readouterr().err


def test_predict_goes_on_after_an_image_that_is_too_large(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, side in (("a.png", 40), ("bomb.png", 200), ("b.png", 40)):
        Image.new("RGB", (side, side)).save(name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    command = ["predict", "balanced_fer", "--checkpoint", str(trained / "checkpoints/last.ckpt")]
    assert main([*command, "a.png", "bomb.png", "b.png"]) == 1
    out, err = capsys.readouterr()
    assert [line.partition(":")[0] for line in out.splitlines()] == ["a.png", "b.png"]
    assert err.startswith("bomb.png cannot be read as an image: ")
    assert "exceeds limit" in err


@pytest.mark.parametrize("system", TRAINED)
def test_every_configuration_can_be_printed(
    system: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = sorted(p.stem for p in configuration(system, "small").parent.glob("*.yaml"))
    assert {"paper", "small"} <= set(names)
    for name in names:
        root = ["--data.root", "somewhere"] if system == "balanced_fer" else []
        with pytest.raises(SystemExit) as stop:
            main(["fit", system, "--config", name, *root, "--print_config"])
        assert stop.value.code == 0
        printed = capsys.readouterr().out
        assert "optimization:" in printed
        for default in (
            "max_steps:", "LastCheckpoint", "CSVLogger", "TensorBoardLogger", "max_epochs: -1",
            f"save_dir: runs/{system}", "use_distributed_sampler: false",
            "check_val_every_n_epoch: null",
        ):  # fmt: skip
            assert default in printed
        assert ("monitor: val/mean_accuracy" in printed) == (system == "balanced_fer")


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_registry_names_what_is_there(name: str) -> None:
    system = SYSTEMS[name]
    assert system.compares
    assert (name in TRAINED) == bool(system.task) == bool(system.data)
    if system.task:
        for module, known in (("task", system.task), ("data", system.data)):
            assert hasattr(import_module(f"facekernels.systems.{name}.{module}"), known)
        assert import_module(f"facekernels.systems.{name}.reproduce").comparison().seeds > 1
    assert (name in PREDICTING) == system.predicts
    if system.predicts:
        package = import_module(f"facekernels.systems.{name}")
        assert all(hasattr(package, part) for part in ("load", "predict", "draw"))


def test_commands_take_their_names_from_the_registry(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    overview = " ".join(capsys.readouterr().out.split())
    assert f"train a system: {', '.join(TRAINED)}" in overview
    assert f"run a comparison again: {', '.join(SYSTEMS)}" in overview
    for command, names in (("predict", PREDICTING), ("reproduce", SYSTEMS)):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert f"{{{','.join(names)}}}" in capsys.readouterr().out
    assert main(["fit", "--help"]) == 0
    assert f"SYSTEM is one of {', '.join(TRAINED)}" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["fit", "balanced_fer", "--help"])
    assert capsys.readouterr().out.startswith("usage: facekernels fit balanced_fer [")


def test_a_typo_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, key in (
        (["--model.epsilom", "0.2"], "epsilom"),
        (["--config", str(tmp_path / "typo.yaml")], "consistenzy"),
    ):
        (tmp_path / "typo.yaml").write_text("model: {consistenzy: 1.0}\n")
        with pytest.raises(SystemExit) as stop:
            main(["fit", "balanced_fer", "--config", "small", *arguments])
        assert stop.value.code == 2
        assert key in capsys.readouterr().err


def test_wrong_names_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "swinfaze"]) == 2
    assert "SYSTEM must be one of balanced_fer, swinface: got 'swinfaze'" in capsys.readouterr().err
    assert main(["fit"]) == 2
    with pytest.raises(ValueError, match=r"balanced_fer has the configurations .*, got 'big'"):
        configuration("balanced_fer", "big")


SWIN = [
    "--model.backbone", "swin_t", "--model.backbone_options",
    "{window_size: 4, embed_dim: 12, depths: [1, 1], num_heads: [2, 2], drop_path_rate: 0.0}",
]  # fmt: skip


def _logged(folder: Path, *command: str) -> list[dict[str, str]]:
    """The rows of the log that one command writes in an empty folder."""
    folder.mkdir()
    out = subprocess.run(
        [sys.executable, "-m", "facekernels", *command], cwd=folder, capture_output=True,
        text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert out.returncode == 0, out.stderr[-2000:]
    (log,) = folder.glob("runs/**/metrics.csv")
    with log.open() as file:
        return list(csv.DictReader(file))


PROCESSES = {
    "one": ["--trainer.devices", "1"],
    "two": ["--trainer.devices", "2", "--trainer.strategy", "ddp"],
}
"""DDP with gloo: the command runs itself again for the second process, and writes one log."""


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    curves = []
    for name, more in PROCESSES.items():
        rows = _logged(tmp_path / name, "fit", *QUICK, *SWIN, "--trainer.log_every_n_steps", "1",
                       *more)  # fmt: skip
        curves.append([float(r["train/total"]) for r in rows if r.get("train/total")])
    assert len(curves[0]) == 2
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)


def test_two_processes_evaluate_as_one(trained: Path, tmp_path: Path) -> None:
    """Of 21 images one process has 11 and the other 10, in three and in two batches."""
    sizes = ["--data.test_per_class", "3", "--data.eval_batch_size", "5",
             "--ckpt_path", str(trained / "checkpoints" / "last.ckpt")]  # fmt: skip
    one, two = (
        _logged(tmp_path / name, "test", *QUICK, *sizes, *more) for name, more in PROCESSES.items()
    )
    assert len(one) == 1
    metrics = {k for k in one[0] if k.startswith("test/")}
    assert len(metrics) == 2 + 7
    assert {k: one[0][k] for k in metrics} == {k: two[0][k] for k in metrics}
    assert len({one[0][k] for k in metrics}) > 1
