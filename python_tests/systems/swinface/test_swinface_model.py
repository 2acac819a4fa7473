"""The published network: sizes, names, outputs, numbers; and its small relatives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from facekernels.data.labels import ATTRIBUTES, EXPRESSIONS
from facekernels.systems.swinface import (
    GROUPS,
    TASKS,
    SwinFace,
    load,
    load_backbone,
    load_published,
    save_published,
)

SMALL: dict[str, Any] = {
    "image_size": 64, "window_size": 4, "embed_dim": 24, "depths": (1, 1, 2, 1),
    "embedding_dim": 16, "level_channels": (4, 4, 4, 4),
}  # fmt: skip


@pytest.fixture(scope="module")
def published() -> SwinFace:
    torch.manual_seed(0)
    return SwinFace(unused_head=True).eval()


@pytest.fixture
def small() -> SwinFace:
    torch.manual_seed(0)
    return SwinFace(**SMALL).eval()


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_sizes_are_the_published_ones(published: SwinFace) -> None:
    assert parameters(published) == 67_809_266
    assert parameters(published.fam) == 33_090_464
    assert parameters(published.tss) == 5_778_432
    assert parameters(published.om) == 45_144
    assert len(published.state_dict()) == 473
    keys = set(published.state_dict())
    assert {"fam.nets.10.conv.convs.3.weight", "fam.nets.0.channel_attention.mlp.3.bias",
            "fam.nets.4.norm.running_var", "tss.nets.10.feature.3.weight",
            "om.output_fcs.41.bias"} <= keys  # fmt: skip
    widths = [layer.out_features for layer in published.om.output_fcs]
    assert widths == [2, 1, 2, 7, *[2] * 38]


def test_order_of_the_42_tasks() -> None:
    assert len(TASKS) == 42
    assert TASKS[0] == "Age"
    assert TASKS[5] == "Gender"
    assert TASKS[41] == "Expression"
    assert TASKS[1:41] == ATTRIBUTES
    assert sorted(t for g in GROUPS for t in g) == sorted(TASKS)


def test_output_modes(small: SwinFace) -> None:
    images = torch.randn(3, 3, 64, 64)
    found = small(images)
    assert list(found) == [*TASKS, "Recognition"]
    assert found["Age"].shape == (3, 1)
    assert found["Expression"].shape == (3, len(EXPRESSIONS))
    assert found["Recognition"].shape == (3, 16)
    small.set_output_type("List")
    listed = small(images)
    assert len(listed) == 43
    for one, other in zip(listed, found.values(), strict=True):
        assert torch.equal(one, other)
    small.set_output_type("Attribute")
    assert len(small(images)) == 40
    assert torch.equal(small(images)[4], found["Gender"])
    for task in ("Age", "Wearing Hat", "Recognition"):
        small.set_output_type(task)
        assert torch.equal(small(images), found[task])
    with pytest.raises(ValueError, match="output_type must be one of Dict, List"):
        small.set_output_type("Height")


@pytest.mark.parametrize(("value", "expected"), [(3.0, 1.499985), (-3.0, 0.0)])
def test_closed_form_of_a_branch(published: SwinFace, value: float, expected: float) -> None:
    """Centre taps of 1 on each level's first channel, a gate of zeros: 3 / 2 / sqrt(1 + 2e-5)."""
    net = SwinFace(**(SMALL | {"level_channels": (1, 1, 1, 1), "tasks": ("Gender",)})).fam.eval()
    with torch.no_grad():
        for parameter in net.nets[0].channel_attention.parameters():
            parameter.zero_()
        for convolution in net.nets[0].conv.convs:
            convolution.weight.zero_()
            convolution.weight[:, 0, 1, 1] = 1
    found = net(torch.full((1, 48 + 96 + 192 + 192, 4, 4), value))
    torch.testing.assert_close(found, torch.full_like(found, expected), atol=1e-6, rtol=0)


def test_samples_do_not_see_each_other(small: SwinFace) -> None:
    images = torch.randn(4, 3, 64, 64)
    together = small(images)
    for i in range(4):
        alone = small(images[i : i + 1])
        for task, value in alone.items():
            torch.testing.assert_close(value[0], together[task][i], atol=1e-5, rtol=1e-4)


def test_levels_and_attention_can_be_chosen() -> None:
    images = torch.randn(2, 3, 64, 64)
    shapes = {"all": 528, "global": 192, "local": 336}
    for feature, channels in shapes.items():
        network = SwinFace(**SMALL, feature=feature, tasks=["Age", "Smiling"])
        assert sum(network.fam.in_channels) == channels
        assert list(network(images)) == ["Age", "Smiling", "Recognition"]
    plain = SwinFace(**SMALL, channel_attention=False)
    assert not any("channel_attention" in key for key in plain.state_dict())
    recognition = SwinFace(**SMALL, tasks=[])
    assert list(recognition(images)) == ["Recognition"]
    assert not any(key.startswith(("fam", "tss", "om")) for key in recognition.state_dict())
    published = SwinFace(**SMALL).eval()
    for spatial in ("cbam", "lanet"):
        gated = SwinFace(**SMALL, spatial_attention=spatial).eval()
        gated.load_state_dict(published.state_dict(), strict=False)
        answers, others = published(images), gated(images)
        torch.testing.assert_close(others["Recognition"], answers["Recognition"])
        assert not torch.allclose(others["Smiling"], answers["Smiling"])


def test_without_attention_a_branch_is_convolution_relu_pool_norm() -> None:
    fam = SwinFace(**SMALL, channel_attention=False, tasks=["Gender"]).fam.eval()
    x = torch.randn(2, 528, 4, 4)
    levels = [conv(part) for conv, part in
              zip(fam.nets[0].conv.convs, x.split(fam.in_channels, 1), strict=True)]  # fmt: skip
    expected = fam.nets[0].norm(torch.cat(levels, 1).relu().amax((2, 3)))
    torch.testing.assert_close(fam(x)[0], expected, atol=1e-5, rtol=1e-4)


def test_published_layout_round_trip(published: SwinFace, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_step_79999_gpu_0.pt"
    save_published(published, path)
    parts = torch.load(path, weights_only=True)
    assert sorted(parts) == [
        "state_dict_backbone",
        "state_dict_fam",
        "state_dict_om",
        "state_dict_tss",
    ]
    loaded = load_published(path)
    assert not loaded.training
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, published.state_dict()[key]), key
    assert parameters(load(path)) == 67_809_266


def test_wrong_checkpoints_are_named(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save({"model": {}}, path)
    with pytest.raises(ValueError, match="not a SwinFace checkpoint: it lacks state_dict_backbone"):
        load_published(path)
    network = SwinFace(**SMALL)
    torch.save(
        {"state_dict_backbone": SwinFace(**(SMALL | {"embedding_dim": 8})).backbone.state_dict()},
        path,
    )
    with pytest.raises(ValueError, match=r"tensors of another shape \(feature"):
        load_backbone(network, path)
    torch.save({"state_dict_backbone": {"module.head.weight": torch.ones(1)}}, path)
    with pytest.raises(ValueError, match=r"keys missing \(feature.0.weight"):
        load_backbone(network, path)


def test_backbone_of_the_first_stage(tmp_path: Path) -> None:
    torch.manual_seed(1)
    first, second = SwinFace(**SMALL, tasks=[], unused_head=True), SwinFace(**SMALL)
    path = tmp_path / "start_0.pt"
    state = {f"module.{k}": v for k, v in first.backbone.state_dict().items()}
    centres = {"weight": torch.ones(3, 16)}
    torch.save({"state_dict_backbone": state, "state_dict_softmax_fc": centres}, path)
    load_backbone(second, path)
    assert torch.equal(
        second.backbone.patch_embed.proj.weight, first.backbone.patch_embed.proj.weight
    )


def test_predictions_are_named(small: SwinFace) -> None:
    images = torch.randint(0, 256, (2, 3, 80, 72), dtype=torch.uint8)
    analysis = small.predict(images)[1]
    assert analysis.gender in ("Male", "Female")
    assert analysis.gender_probability is not None
    assert analysis.gender_probability >= 0.5
    assert analysis.expression in EXPRESSIONS
    assert sum(analysis.expression_probabilities.values()) == pytest.approx(1)
    assert set(analysis.attributes) == set(ATTRIBUTES) - {"Gender"}
    assert analysis.identity.norm().item() == pytest.approx(1, abs=1e-5)
    assert str(analysis).startswith(f"age {analysis.age:.0f}, {analysis.gender}")
    has = [n for n, (value, p) in analysis.attributes.items() if value]
    assert all(name in str(analysis) for name in has)
    as_float = small.predict(images.float() / 255)[1]
    assert as_float.age == pytest.approx(analysis.age, abs=1e-5)


def test_gender_index_one_is_male(small: SwinFace) -> None:
    head = small.om.output_fcs[0]
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([0.0, 2.0]))
    images = torch.rand(1, 3, 64, 64)
    assert small.predict(images)[0].gender == "Male"
    with torch.no_grad():
        head.bias.neg_()
    assert small.predict(images)[0].gender == "Female"


def test_bad_arguments_are_named(small: SwinFace) -> None:
    with pytest.raises(ValueError, match="feature must be one of all, global, local, got 'some'"):
        SwinFace(feature="some")
    with pytest.raises(ValueError, match="tasks must be different names of the 42"):
        SwinFace(tasks=["Age", "Height"])
    with pytest.raises(
        ValueError, match=r"images must be \[B, 3, H, W\], got shape \(1, 1, 64, 64\)"
    ):
        small.predict(torch.rand(1, 1, 64, 64))
    with pytest.raises(
        ValueError, match=r"images must be \[B, 3, 64, 64\], got shape \(2, 1, 64, 64\)"
    ):
        small(torch.rand(2, 1, 64, 64))
    with pytest.raises(TypeError, match=r"uint8 or floating point, got torch\.int64"):
        small.predict(torch.ones(1, 3, 64, 64).long())


def test_compiles_in_one_graph(small: SwinFace) -> None:
    images = torch.randn(2, 3, 64, 64)
    compiled = torch.compile(small, fullgraph=True)
    for task, value in compiled(images).items():
        torch.testing.assert_close(value, small(images)[task], atol=1e-4, rtol=1e-3)
