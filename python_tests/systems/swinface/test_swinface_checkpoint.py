"""What a training or an evaluation may start from: published files, and our own of either stage."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from facekernels.cli import main
from facekernels.systems.balanced_fer.data import ExpressionData
from facekernels.systems.balanced_fer.task import ExpressionTask
from facekernels.systems.common.checkpoint import backbone_state
from facekernels.systems.common.checkpoint_io import SafeCheckpointIO
from facekernels.systems.common.training import trainer
from facekernels.systems.swinface import (
    SwinFace,
    load,
    load_network,
    load_published,
    save_published,
)
from facekernels.systems.swinface.task import SwinFaceTask
from python_tests.systems.swinface.test_swinface_training import SMALL, data, task

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

BACKBONE = {k: v for k, v in SMALL.items() if k not in ("image_size", "level_channels")}


def small(**options: Any) -> SwinFace:
    torch.manual_seed(5)
    return SwinFace(**(SMALL | options))


def saved(module: Any, images: Any, steps: int, path: Path) -> Path:
    """The checkpoint of a short training."""
    loop = trainer(steps, plugins=[SafeCheckpointIO()])
    loop.fit(module, images)
    loop.save_checkpoint(path)
    return path


def assert_equal(module: torch.nn.Module, other: torch.nn.Module) -> None:
    given = other.state_dict()
    assert module.state_dict().keys() == given.keys()
    for key, value in module.state_dict().items():
        assert torch.equal(value, given[key]), key


def test_the_first_stage_starts_the_second_and_expressions(tmp_path: Path) -> None:
    first = task({"tasks": []}, sample_rate=1.0)
    before = {k: v.clone() for k, v in first.network.backbone.state_dict().items()}
    parts = {"age_gender": 0, "attributes": 0, "expression": 0}
    path = saved(first, data(**parts), 2, tmp_path / "first.ckpt")
    trained = first.network.backbone
    assert not torch.equal(trained.feature[0].weight, before["feature.0.weight"])

    second = SwinFaceTask(small(), init_backbone=str(path))
    assert_equal(second.network.backbone, trained)
    expression = ExpressionTask("swin_t", BACKBONE, image_size=32, init_backbone=str(path))
    assert_equal(expression.network.backbone, trained)

    images = ExpressionData(image_size=32, largest=4, test_per_class=1, batch_size=4)
    path = saved(expression, images, 1, tmp_path / "expression.ckpt")
    third = SwinFaceTask(small(), init_backbone=str(path))
    assert_equal(third.network.backbone, expression.network.backbone)


def test_every_form_of_a_backbone_is_read(tmp_path: Path) -> None:
    state = small().backbone.state_dict()
    parallel = {f"module.{k}": v for k, v in state.items()}
    own = {f"network.backbone.{k}": v for k, v in state.items()}
    others = {"network.om.output_fcs.0.bias": torch.zeros(2), "partial_fc.weight": torch.ones(3)}
    path = tmp_path / "backbone.pt"
    for form in (
        state,
        parallel,
        {"state_dict": state},
        {"state_dict_backbone": parallel, "state_dict_softmax_fc": {"weight": torch.ones(1)}},
        {"state_dict": own | others, "epoch": 3},
    ):
        torch.save(form, path)
        found = backbone_state(path)
        assert found.keys() == state.keys()
        assert all(torch.equal(found[k], v) for k, v in state.items())
    for form, keys in (({"epoch": 3, "lr": 0.1}, "epoch, lr"), ({"state_dict": 3}, "state_dict")):
        torch.save(form, path)
        with pytest.raises(
            ValueError, match=rf"backbone\.pt must hold the tensors of .*, got the keys {keys}$"
        ):
            backbone_state(path)


def test_the_first_stage_is_written_as_published(tmp_path: Path) -> None:
    path = tmp_path / "start_0.pt"
    torch.manual_seed(1)
    first = SwinFace(tasks=[], unused_head=True)
    save_published(first, path)
    assert list(torch.load(path, weights_only=True)) == ["state_dict_backbone"]
    loaded = load_published(path)
    assert loaded.tasks == ()
    assert_equal(loaded, first)
    assert load(path).tasks == ()


def test_a_part_of_a_published_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "part.pt"
    save_published(small(), path)
    parts = torch.load(path, weights_only=True)
    del parts["state_dict_tss"]
    torch.save(parts, path)
    with pytest.raises(ValueError, match="it lacks state_dict_tss and has state_dict_backbone"):
        load_network(small(), path)


@pytest.mark.parametrize("given", [True, False])
def test_the_head_that_nothing_reads_may_be_absent(given: bool, tmp_path: Path) -> None:
    path = tmp_path / "published.pt"
    source = small(unused_head=given)
    save_published(source, path)
    network = small(unused_head=not given, tasks=["Age"])
    with pytest.raises(ValueError, match=r"published\.pt: fam does not fit: .* keys unknown"):
        load_network(network, path)
    network = small(unused_head=not given, tasks=[])  # what it has beyond is left alone
    network.backbone.patch_embed.proj.bias.data += 1
    load_network(network, path)
    assert torch.equal(
        network.backbone.patch_embed.proj.bias, source.backbone.patch_embed.proj.bias
    )


def test_training_goes_on_from_a_whole_network(tmp_path: Path) -> None:
    """From a published file, and from a training of ours; its age layer, too, stays as it is."""
    published, own = tmp_path / "published.pt", tmp_path / "own.ckpt"
    source = small()
    save_published(source, published)
    module = SwinFaceTask(small(), init_network=str(published), age_start=40.0)
    assert_equal(module.network, source)
    saved(module, data(), 1, own)
    assert_equal(SwinFaceTask(small(), init_network=str(own)).network, module.network)
    assert_equal(load(own), module.network)
    with pytest.raises(ValueError, match="init_backbone and init_network must not both be given"):
        SwinFaceTask(small(), init_backbone=str(own), init_network=str(own))
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt"):
        SwinFaceTask(small(), init_network="none.ckpt")
    torch.save({"model": {}}, published)
    with pytest.raises(ValueError, match="does not name its system"):
        SwinFaceTask(small(), init_network=str(published))


def test_a_published_file_is_evaluated_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_published(small(), tmp_path / "published.pt")
    settings = {
        "model": {"network": {"class_path": "facekernels.systems.swinface.SwinFace",
                              "init_args": SMALL}},
        "data": {"dataset": "faces", "image_size": 32, "eval_size": 12, "eval_pairs": 20,
                 "seed": 0},
        "trainer": {"accelerator": "cpu", "precision": "32-true", "enable_progress_bar": False,
                    "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": "logs"}}},
    }  # fmt: skip
    Path("small.json").write_text(json.dumps(settings))
    command = ["swinface", "--config", "paper", "--config", "small.json", "--model.init_network"]
    assert main(["test", *command, "published.pt"]) == 0
    (log,) = tmp_path.glob("logs/**/metrics.csv")
    (row,) = csv.DictReader(log.open())
    images = data(eval_size=12, eval_pairs=20)
    images.seed = 0
    found = trainer(1).test(SwinFaceTask(small()), datamodule=images, verbose=False)
    for name, value in {k: v for part in found for k, v in part.items()}.items():
        assert float(row[name]) == pytest.approx(value, rel=1e-4), name
    assert main(["validate", *command, "none.pt"]) == 1
    assert "checkpoint not found: none.pt" in capsys.readouterr().err
