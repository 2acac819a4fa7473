"""Training of small networks on made-up faces: losses fall, resume exactly, do not depend on the
kernels or on the number of processes.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from facekernels import backend
from facekernels.systems.balanced_fer import ExpressionNet
from facekernels.systems.balanced_fer.data import ExpressionData
from facekernels.systems.balanced_fer.task import ExpressionTask
from facekernels.systems.common.checkpoint_io import SafeCheckpointIO
from facekernels.systems.common.last_checkpoint import LastCheckpoint
from facekernels.systems.common.progress_bar import StepProgressBar
from facekernels.systems.common.schedule import Optimization
from facekernels.systems.common.training import trainer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


def data(**options: Any) -> ExpressionData:
    defaults = {"image_size": 32, "imbalance": 4.0, "largest": 16, "test_per_class": 3,
                "batch_size": 16, "seed": 1}  # fmt: skip
    return ExpressionData(**({"dataset": "faces"} | defaults | options))


def task(**options: Any) -> ExpressionTask:
    lightning.seed_everything(3, verbose=False)
    defaults: dict[str, Any] = {
        "backbone": "resnet",
        "backbone_options": {"layers": [1, 1, 1, 1], "width": 8, "stem": "small"},
        "image_size": 32,
        "consistency": 1.0,
        "optimization": Optimization(lr=3e-3, warmup_steps=3, warmup_jump=False),
    }
    return ExpressionTask(**(defaults | options))


class Losses(lightning.Callback):
    """The training loss of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *rest: Any) -> None:
        self.values.append(float(outputs["loss"]))


def fit(steps: int, **options: Any) -> tuple[list[float], ExpressionTask]:
    losses, module = Losses(), task(**options)
    trainer(steps, callbacks=[losses]).fit(module, data())
    return losses.values, module


def test_loss_falls_and_metrics_are_reported(tmp_path: Path) -> None:
    losses, module = fit(40)
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    loop = trainer(40, logger=lightning.pytorch.loggers.CSVLogger(str(tmp_path)))
    (found,) = loop.test(module, datamodule=data(), verbose=False)
    names = {"test/accuracy", "test/mean_accuracy", "test/recall/Fear", "test/recall/Happy"}
    assert names <= set(found)
    # Every class has three test images, so the two accuracies are one.
    assert found["test/accuracy"] == pytest.approx(found["test/mean_accuracy"])
    assert Path(loop.log_dir, "confusion.png").stat().st_size > 1000


def test_the_curve_does_not_depend_on_the_kernels() -> None:
    ours, _ = fit(8)
    with backend("reference"):
        reference, _ = fit(8)
    assert ours == pytest.approx(reference, rel=2e-3)
    assert len(set(ours)) == 8


class Interrupted(Exception):
    pass


class Stop(lightning.Callback):
    """Saves `path` after so many batches, and interrupts."""

    def __init__(self, batches: int, path: Path) -> None:
        self.batches, self.path = batches, path

    def on_train_batch_end(self, loop: Any, *rest: Any) -> None:
        if loop.fit_loop.total_batch_idx + 1 == self.batches:
            loop.save_checkpoint(self.path)
            raise Interrupted


NOISY = {
    "backbone": "swin_t",
    "backbone_options": {"window_size": 4, "embed_dim": 12, "depths": [1, 1], "num_heads": [2, 2],
                         "drop_path_rate": 0.5},
}  # fmt: skip
"""A network that draws random numbers in every batch."""


def go_on(
    steps: int, path: Path, network: dict[str, Any], **options: Any
) -> tuple[list[float], ExpressionTask]:
    losses, module = Losses(), task(**network)
    loop = trainer(steps, callbacks=[losses], plugins=[SafeCheckpointIO()], **options)
    loop.fit(module, data(), ckpt_path=path, weights_only=True)
    assert loop.global_step == steps
    return losses.values, module


@pytest.mark.parametrize(("network", "accumulate"), [({}, 1), (NOISY, 1), (NOISY, 2)])
def test_resume_is_exact(tmp_path: Path, network: dict[str, Any], accumulate: int) -> None:
    whole, uninterrupted = Losses(), task(**network)
    trainer(9, callbacks=[whole], accumulate_grad_batches=accumulate).fit(uninterrupted, data())
    path, done = tmp_path / "last.ckpt", 5 * accumulate
    with pytest.raises(Interrupted):
        trainer(9, callbacks=[Stop(done, path)], accumulate_grad_batches=accumulate).fit(
            task(**network), data()
        )
    losses, module = go_on(9, path, network, accumulate_grad_batches=accumulate)
    assert len(losses) == 4 * accumulate
    assert losses == whole.values[done:]
    assert len(set(losses)) == len(losses)
    for key, value in uninterrupted.network.state_dict().items():
        assert torch.equal(value, module.network.state_dict()[key]), key
    assert ExpressionNet.from_checkpoint(path).settings == module.network.settings


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_finished_training_can_be_continued(tmp_path: Path, accumulate: int) -> None:
    """Steps, images and random numbers go on as in one training; the rate does not say when."""
    constant = Optimization(lr=3e-3, schedule="exponential", gamma=1.0, warmup_steps=0)
    network = NOISY | {"optimization": constant}
    whole, longer = Losses(), task(**network)
    trainer(7, callbacks=[whole], accumulate_grad_batches=accumulate).fit(longer, data())
    logger = lightning.pytorch.loggers.CSVLogger(str(tmp_path), name="run")
    options: dict[str, Any] = {"accumulate_grad_batches": accumulate}
    trainer(
        4, callbacks=[LastCheckpoint(3)], logger=logger, enable_checkpointing=True, **options
    ).fit(task(**network), data())
    path = tmp_path / "run" / "version_0" / "checkpoints" / "last.ckpt"
    assert torch.load(path, weights_only=True)["global_step"] == 4
    losses, module = go_on(7, path, network, **options)
    assert losses == whole.values[4 * accumulate :]
    for key, value in longer.network.state_dict().items():
        assert torch.equal(value, module.network.state_dict()[key]), key


def test_half_a_step_is_no_place_to_go_on(tmp_path: Path) -> None:
    path = tmp_path / "inside.ckpt"
    with pytest.raises(Interrupted):
        trainer(9, callbacks=[Stop(3, path)], accumulate_grad_batches=2).fit(task(), data())
    with pytest.raises(ValueError, match=r"inside\.ckpt cannot be used: it has 3 batches in 1"):
        go_on(9, path, {}, accumulate_grad_batches=2)


def test_the_last_checkpoint_falls_on_ends_of_steps(tmp_path: Path) -> None:
    """Also after a resume, whose first batches are of a step that is not done."""
    written: list[tuple[int, int]] = []

    class Watch(SafeCheckpointIO):
        def save_checkpoint(
            self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
        ) -> None:
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]
            written.append((checkpoint["global_step"], progress["ready"]))
            super().save_checkpoint(checkpoint, path)

    def loop(steps: int) -> lightning.Trainer:
        return trainer(steps, callbacks=[LastCheckpoint(2)], plugins=[Watch()],
                       enable_checkpointing=True, default_root_dir=str(tmp_path),
                       accumulate_grad_batches=3)  # fmt: skip

    loop(4).fit(task(), data())
    last = tmp_path / "checkpoints" / "last.ckpt"
    loop(7).fit(task(), data(), ckpt_path=last, weights_only=True)
    assert written == [(2, 6), (4, 12), (6, 18), (7, 21)]


def test_checkpoints_of_others_are_refused(tmp_path: Path) -> None:
    module = task()
    loop = trainer(1, plugins=[SafeCheckpointIO()])
    loop.fit(module, data())
    path = tmp_path / "other.ckpt"
    loop.save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["facekernels"]["system"] = "swinface"
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match="must be one of balanced_fer, got one of swinface"):
        trainer(1).test(task(), datamodule=data(), ckpt_path=path, weights_only=True)
    with pytest.raises(ValueError, match="must be one of balanced_fer, got one of swinface"):
        ExpressionNet.from_checkpoint(path)


def test_the_progress_is_that_of_the_whole_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Batches, also with several per step and after a resume; no number of epochs."""
    options: dict[str, Any] = {"accumulate_grad_batches": 2, "default_root_dir": str(tmp_path)}
    trainer(2, callbacks=[LastCheckpoint()], enable_checkpointing=True, **options).fit(
        task(), data()
    )
    capsys.readouterr()
    trainer(3, callbacks=[StepProgressBar()], enable_progress_bar=True, **options).fit(
        task(), data(), ckpt_path=tmp_path / "checkpoints" / "last.ckpt", weights_only=True
    )
    printed = capsys.readouterr().out
    assert re.search(r"Training .* 6/6 ", printed), printed
    assert "Epoch" not in printed


_TWO_PROCESSES = """
import json, sys
from python_tests.systems.balanced_fer.test_balanced_fer_training import Losses, data, task
from facekernels.systems.common.training import trainer
import torch

torch.set_num_threads(1)
losses = Losses()
swin = {"window_size": 4, "embed_dim": 12, "depths": [1, 1], "num_heads": [2, 2],
        "drop_path_rate": 0.0}
module = task(backbone="swin_t", backbone_options=swin)
loop = trainer(6, callbacks=[losses], devices=int(sys.argv[1]),
               strategy="ddp" if sys.argv[1] == "2" else "auto")
loop.fit(module, data())
mean = module.all_gather(torch.tensor(losses.values)).view(-1, 6).mean(0)
if loop.is_global_zero:
    print("LOSSES", json.dumps(mean.tolist()))
"""


def test_two_processes_give_the_curve_of_one(tmp_path: Path) -> None:
    """The same images in the same steps; LayerNorm only, so that no statistics are split."""
    script = tmp_path / "train.py"
    script.write_text(_TWO_PROCESSES)
    root = str(Path(__file__).parents[3])
    curves = []
    for devices in ("1", "2"):
        out = subprocess.run(
            [sys.executable, str(script), devices], capture_output=True, text=True, check=False,
            cwd=root, env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert out.returncode == 0, out.stderr[-2000:]
        line = next(x for x in out.stdout.splitlines() if x.startswith("LOSSES"))
        curves.append(json.loads(line.removeprefix("LOSSES")))
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)


def test_classes_must_fit() -> None:
    with pytest.raises(ValueError, match="num_classes must be 7, the classes of the data, got 5"):
        trainer(1).fit(task(num_classes=5), data())


def test_steps_must_be_given() -> None:
    with pytest.raises(ValueError, match=r"trainer\.max_steps must be at least 1, got -1"):
        trainer(-1).fit(task(), data())


def test_a_real_set_needs_its_folder() -> None:
    with pytest.raises(ValueError, match="root must be the folder of rafdb, got None"):
        ExpressionData("rafdb")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        data(dataset="rafdb", root="nowhere").setup("fit")
