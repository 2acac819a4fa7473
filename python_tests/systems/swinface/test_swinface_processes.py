"""Two processes train and evaluate as one does, with recognition and without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import nn

from facekernels.systems.common.schedule import Optimization
from facekernels.systems.common.training import trainer
from facekernels.systems.swinface import task as task_module
from python_tests.systems.swinface.test_swinface_training import Losses, data, task

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

STEPS = 3


class StillNorms(lightning.Callback):
    """BatchNorm by its running statistics: those of a batch are each process's own."""

    def on_train_batch_start(self, loop: Any, module: Any, *rest: Any) -> None:
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d):
                part.eval()


def run(devices: int) -> dict[str, Any]:
    """Losses of both kinds of training, and what the evaluation after them saw and said."""
    options = {"devices": devices, "strategy": "ddp" if devices > 1 else "auto"}
    whole: dict[str, Any] = {"drop_path_rate": 0.0, "dropout": 0.0, "unused_head": True}
    found: dict[str, Any] = {}
    # Every class in each step, so that the gradients are dense in one process, too.
    sgd = Optimization(optimizer="sgd", lr=1e-3, momentum=0)
    for name, recognition, feature in (("with", 4, "all"), ("without", 0, "local")):
        losses = Losses()
        loop = trainer(STEPS, callbacks=[losses, StillNorms()], **options)
        module = task(whole | {"feature": feature}, sample_rate=1.0, optimization=sgd)
        images = data(recognition=recognition, eval_size=13, eval_pairs=21, eval_batch_size=4)
        lightning.seed_everything(4, verbose=False)  # as DDP does before the centres are drawn
        loop.fit(module, images)
        mean = module.all_gather(torch.tensor(losses.values)).view(-1, STEPS).mean(0)
        found[name] = mean.tolist()
    if devices > 1:
        sampled = Losses()
        trainer(STEPS, callbacks=[sampled], **options).fit(task(whole, sample_rate=0.5), data())
        found["sampled"] = sampled.values

    seen: list[dict[str, torch.Tensor]] = []
    scores = task_module.scores
    task_module.scores = lambda rows, pairs: seen.append(rows) or scores(rows, pairs)  # type: ignore[assignment, func-returns-value]
    try:
        metrics = trainer(1, **options).test(module, datamodule=images, verbose=False)
    finally:
        task_module.scores = scores
    found["metrics"] = {k: v for part in metrics for k, v in part.items()}
    found["age"], found["distance"] = seen[0]["age"].tolist(), seen[1]["distance"].tolist()
    found["labels"] = images.evaluation["test"]["faces"].labels["age"].tolist()  # type: ignore[attr-defined]
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of one process and of two."""
    script = tmp_path_factory.mktemp("processes") / "train.py"
    script.write_text(
        "import json, os\n"
        "from python_tests.systems.swinface.test_swinface_processes import run\n"
        "found = run(2)\n"
        "if os.environ['LOCAL_RANK'] == '0': print('FOUND', json.dumps(found))\n"
    )
    root = str(Path(__file__).parents[3])
    two = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=root, env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    one = run(1)
    out, err = two.communicate()
    assert two.returncode == 0, err[-2000:]
    line = next(x for x in out.splitlines() if x.startswith("FOUND"))
    return one, json.loads(line.removeprefix("FOUND"))


@pytest.mark.parametrize("recognition", ["with", "without"])
def test_two_processes_give_the_curve_of_one(found: Any, recognition: str) -> None:
    one, two = (f[recognition] for f in found)
    assert len(set(one)) == STEPS
    assert two == pytest.approx(one, rel=1e-5)


def test_sampled_classes_train_in_two_processes(found: Any) -> None:
    assert len(found[1]["sampled"]) == STEPS
    assert all(0 < loss < 1e4 for loss in found[1]["sampled"])


def test_evaluation_sees_the_images_in_their_order(found: Any) -> None:
    """Thirteen images and 21 pairs: the processes have different numbers of them."""
    one, two = found
    assert two["age"] == two["labels"] == one["labels"]
    assert two["distance"] == pytest.approx(one["distance"], rel=1e-4)
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-4)
    assert "test/pairs/verification" in two["metrics"]
