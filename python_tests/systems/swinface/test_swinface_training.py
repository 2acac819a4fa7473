"""Training of a small SwinFace: every head trains, resume is exact, kernels change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from facekernels import backend
from facekernels.data.labels import ATTRIBUTES
from facekernels.systems.common.checkpoint_io import SafeCheckpointIO
from facekernels.systems.common.schedule import Optimization
from facekernels.systems.common.training import trainer
from facekernels.systems.swinface import TASKS, SwinFace, load
from facekernels.systems.swinface.data import SwinFaceData
from facekernels.systems.swinface.task import SwinFaceTask

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

SMALL: dict[str, Any] = {
    "image_size": 32, "window_size": 4, "embed_dim": 12, "depths": (1, 1, 1),
    "num_heads": (2, 2, 2), "embedding_dim": 16, "level_channels": (4, 4, 4),
}  # fmt: skip


def data(**options: Any) -> SwinFaceData:
    sizes: dict[str, Any] = {
        "recognition": 4, "age_gender": 4, "attributes": 4, "expression": 4, "identities": 10,
        "images_per_identity": 2, "source_size": 16, "eval_size": 12, "eval_pairs": 20,
    }  # fmt: skip
    return SwinFaceData(image_size=32, seed=1, **(sizes | options))


def task(network: dict[str, Any] | None = None, **options: Any) -> SwinFaceTask:
    lightning.seed_everything(3, verbose=False)
    defaults: dict[str, Any] = {
        "scale": 16.0, "sample_rate": 0.5, "age_start": 40.0,
        "optimization": Optimization(lr=1e-3, warmup_steps=2, warmup_jump=False),
    }  # fmt: skip
    return SwinFaceTask(SwinFace(**(SMALL | (network or {}))), **(defaults | options))


class Losses(lightning.Callback):
    """The training loss of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *rest: Any) -> None:
        self.values.append(float(outputs["loss"]))


def test_every_head_trains_with_sampled_classes() -> None:
    """In the released code the Gender layer's weight stays as it was."""
    module = task()
    before = {k: v.clone() for k, v in module.network.state_dict().items()}
    trainer(3).fit(module, data())
    for name, parameter in module.network.named_parameters():
        if not name.startswith("fam"):  # whose gates, of one hidden unit here, may be shut
            assert not torch.equal(parameter, before[name]), name
    layers = [f"om.output_fcs.{k}.weight" for k in range(42)]
    assert all(name in before for name in layers)
    assert module.partial_fc is not None
    assert module.partial_fc.sparse_grad


def test_batch_has_the_published_parts() -> None:
    module = data(recognition=3, age_gender=2, attributes=4, expression=1)
    module.trainer = trainer(1)
    module.setup("fit")
    batch = next(iter(module.train_dataloader()))
    assert batch["image"].shape == (10, 3, 32, 32)
    assert batch["image"].abs().max() <= 1
    first, second, third, fourth = batch["identity"].split([3, 2, 4, 1])
    assert (first >= 0).all()
    assert (torch.cat([second, third, fourth]) == -1).all()
    assert (~batch["age"].isnan()).tolist() == [False] * 3 + [True] * 2 + [False] * 5
    gender = batch["attributes"][:, ATTRIBUTES.index("Gender")]
    assert (gender != -1).tolist() == [False] * 3 + [True] * 6 + [False]
    assert ((batch["attributes"] != -1).sum(1)).tolist() == [0] * 3 + [1] * 2 + [40] * 4 + [0]
    assert (batch["expression"] >= 0).tolist() == [False] * 9 + [True]


def test_every_protocol_is_reported() -> None:
    module, loop = task(), trainer(2)
    loop.fit(module, data())
    found = loop.test(module, datamodule=data(), verbose=False)
    names = {name for part in found for name in part}
    assert {"test/faces/age_mae", "test/faces/age_within_10", "test/faces/gender",
            "test/faces/attributes", "test/faces/expression", "test/faces/expression_top5",
            "test/pairs/verification", "test/pairs/tar@far=0.1"} <= names  # fmt: skip


def test_recognition_alone_is_the_first_stage() -> None:
    module = task({"tasks": []}, sample_rate=1.0)
    losses = Losses()
    loop = trainer(25, callbacks=[losses])
    loop.fit(module, data(recognition=16, age_gender=0, attributes=0, expression=0))
    assert sum(losses.values[-5:]) < sum(losses.values[:5])
    found = loop.test(module, datamodule=data(), verbose=False)
    assert "test/pairs/verification" in found[0]


def sgd_curve(name: str, lr: float) -> list[float]:
    # Not Adam: its first steps are signs, and rounding decides those of small gradients.
    losses, sgd = Losses(), Optimization(optimizer="sgd", lr=lr, momentum=0)
    with backend(name):
        trainer(5, callbacks=[losses]).fit(task(optimization=sgd), data())
    return losses.values


def test_the_curve_does_not_depend_on_the_kernels() -> None:
    ours, reference = sgd_curve("auto", 0.05), sgd_curve("reference", 0.05)
    assert ours == pytest.approx(reference, rel=1e-4)
    # The rate is high enough for wrong gradients to show.
    untrained = sgd_curve("auto", 0.0)
    moved = [abs(a / b - 1) for a, b in zip(ours, untrained, strict=True)]
    assert moved[0] == 0
    assert min(moved[1:]) > 5e-3


def test_resume_is_exact(tmp_path: Path) -> None:
    whole = Losses()
    uninterrupted = task()
    trainer(6, callbacks=[whole]).fit(uninterrupted, data())

    class Interrupted(Exception):
        pass

    stopped: dict[str, torch.Tensor] = {}

    class Stop(lightning.Callback):
        def on_train_batch_end(self, loop: Any, module: Any, *rest: Any) -> None:
            if loop.global_step == 3:
                loop.save_checkpoint(tmp_path / "last.ckpt")
                stopped.update({k: v.clone() for k, v in module.network.state_dict().items()})
                raise Interrupted

    with pytest.raises(Interrupted):
        trainer(6, callbacks=[Stop()], plugins=[SafeCheckpointIO()]).fit(task(), data())
    losses, module = Losses(), task()
    trainer(6, callbacks=[losses], plugins=[SafeCheckpointIO()]).fit(
        module, data(), ckpt_path=tmp_path / "last.ckpt", weights_only=True
    )
    assert losses.values == whole.values[3:]
    assert len(set(losses.values)) == 3
    for key, value in uninterrupted.state_dict().items():
        assert torch.equal(value, module.state_dict()[key]), key
    # Evaluation and prediction need the class centres of no training.
    trainer(1, plugins=[SafeCheckpointIO()]).test(
        task(), datamodule=data(), ckpt_path=tmp_path / "last.ckpt", weights_only=True,
        verbose=False,
    )  # fmt: skip
    network = load(tmp_path / "last.ckpt")
    assert network.tasks == TASKS
    assert list(network.state_dict()) == list(stopped)
    for key, value in network.state_dict().items():
        assert torch.equal(value, stopped[key]), key


def test_only_the_backbone_is_clipped() -> None:
    module = task(backbone_clip=1e-6)
    norms: dict[str, float] = {}

    class Norms(lightning.Callback):
        def on_train_batch_end(self, loop: Any, module: Any, *rest: Any) -> None:
            for name in ("backbone", "om"):
                part = getattr(module.network, name)
                gradients = [p.grad.norm() for p in part.parameters() if p.grad is not None]
                norms[name] = float(torch.stack(gradients).norm())

    trainer(1, callbacks=[Norms()]).fit(module, data())
    assert norms["backbone"] <= 1.01e-6
    assert norms["om"] > 1e-3


class Idle(lightning.Callback):
    """Names of the parameters that were frozen, and of those without a gradient."""

    def on_train_batch_end(self, loop: Any, module: Any, *rest: Any) -> None:
        named = list(module.named_parameters())
        self.frozen = {n for n, p in named if not p.requires_grad}
        self.without = {n for n, p in named if p.grad is None}


@pytest.mark.parametrize(
    ("network", "options", "idle"),
    [
        ({"unused_head": True}, {}, ("head",)),
        ({}, {"recognition_weight": 0.0}, ("norm", "feature")),
        ({"feature": "local"}, {"recognition_weight": 0.0}, ("norm", "feature", "layers.2")),
    ],
)
def test_what_no_loss_reaches_is_frozen(
    network: dict[str, Any], options: dict[str, Any], idle: tuple[str, ...]
) -> None:
    """DistributedDataParallel waits for the gradient of every other parameter."""
    module, seen = task(network, **options), Idle()
    module.network.backbone.patch_embed.requires_grad_(False)  # the user's own choice
    before = {k: v.clone() for k, v in module.network.backbone.state_dict().items()}
    trainer(1, callbacks=[seen]).fit(module, data())
    prefixes = tuple(f"network.backbone.{name}." for name in (*idle, "patch_embed"))
    names = {name for name, _ in module.named_parameters()}
    assert seen.without == seen.frozen == {n for n in names if n.startswith(prefixes)}
    for key, value in module.network.backbone.state_dict().items():
        if key.startswith(idle):  # running statistics, too
            assert torch.equal(value, before[key]), key
    left = {n for n, p in module.named_parameters() if not p.requires_grad}
    assert left == {n for n in names if ".patch_embed." in n}
    again = Idle()
    module.recognition_weight = 1.0
    trainer(1, callbacks=[again]).fit(module, data())
    assert not any(".feature." in name for name in again.frozen)


def test_a_second_setup_keeps_the_class_centres() -> None:
    module, images = task(), data()
    trainer(1).fit(module, images)
    centres = module.partial_fc
    assert centres is not None
    module.setup("fit")
    assert module.partial_fc is centres
    trainer(1).fit(module, images)
    assert module.partial_fc is centres
    trainer(1).fit(module, data(identities=7))
    assert module.partial_fc is not centres
    assert module.partial_fc is not None
    assert module.partial_fc.num_classes == 7


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"image_size of model and data must be the same, got 32"):
        trainer(1).test(task(), datamodule=SwinFaceData(image_size=64, eval_size=1, eval_pairs=1))
    for options, sizes in (({"recognition_weight": 0.0}, {}), ({}, {"recognition": 0})):
        with pytest.raises(ValueError, match=r"^there is nothing to train: .* got [01]\.0 and \{"):
            trainer(1).fit(task({"tasks": []}, **options), data(**sizes))
    with pytest.raises(
        ValueError, match=r"recognition, age_gender, attributes and expression must"
    ):
        data(recognition=0, age_gender=0, attributes=0, expression=0)
    with pytest.raises(ValueError, match=r"roots must be of recognition, adience, .*got celebb"):
        data(roots={"celebb": "x"})
    with pytest.raises(ValueError, match="roots must give the folder of recognition"):
        data(dataset="files", roots={"celeba": "x"}).setup("fit")
