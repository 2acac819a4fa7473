"""The expression network: published sizes, the identity of map and logits, starting weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from facekernels.nn import SwinTransformer, class_activation_maps
from facekernels.systems.balanced_fer import ExpressionNet, load_backbone, predict
from facekernels.systems.balanced_fer.task import ExpressionTask

SMALL = {"layers": (1, 1, 1, 1), "width": 8, "stem": "small"}


def small() -> ExpressionNet:
    torch.manual_seed(0)
    return ExpressionNet("resnet", image_size=32, **SMALL).eval()


def test_sizes_are_the_published_ones() -> None:
    network = ExpressionNet("swin_t")
    total = sum(p.numel() for p in network.parameters())
    idle = [*network.backbone.norm.parameters(), *network.backbone.feature.parameters()]
    assert total == 28_508_417
    assert total - sum(p.numel() for p in idle) == 27_521_281


@pytest.mark.parametrize("backbone", ["resnet", "swin_t"])
def test_mean_of_the_maps_plus_bias_are_the_logits(backbone: str) -> None:
    torch.manual_seed(0)
    options = SMALL if backbone == "resnet" else {
        "window_size": 4, "embed_dim": 12, "depths": (1, 1), "num_heads": (2, 2),
    }  # fmt: skip
    network = ExpressionNet(backbone, image_size=32, **options).eval()
    images = torch.randn(3, 3, 32, 32)
    maps = class_activation_maps(network.features(images), network.head.weight)
    logits = maps.mean((2, 3)) + network.head.bias
    torch.testing.assert_close(logits, network(images), atol=1e-5, rtol=1e-4)


def test_swin_features_are_normalised_and_channels_last() -> None:
    network = ExpressionNet("swin_t", image_size=32, window_size=4, embed_dim=12, depths=(1, 1),
                            num_heads=(2, 2)).eval()  # fmt: skip
    features = network.features(torch.randn(2, 3, 32, 32))
    assert features.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(features.mean(1), torch.zeros(2, 8, 8), atol=1e-5, rtol=0)


def test_starting_from_a_recognition_backbone(tmp_path: Path) -> None:
    options = {"window_size": 4, "embed_dim": 12, "depths": (1, 1), "num_heads": (2, 2)}
    recognition = SwinTransformer(32, **options, unused_head=True)
    path = tmp_path / "start_0.pt"
    torch.save({"state_dict_backbone": recognition.state_dict()}, path)
    network = ExpressionNet("swin_t", image_size=32, **options)
    load_backbone(network, path)
    for key, value in network.backbone.state_dict().items():
        assert torch.equal(value, recognition.state_dict()[key]), key
    with pytest.raises(ValueError, match=r"backbone does not fit: .* keys missing"):
        load_backbone(small(), path)


def test_the_embedding_of_a_recognition_checkpoint_may_be_on_one_side_only(tmp_path: Path) -> None:
    """Public ResNet files for expressions hold `feature.weight` of their recognition training."""
    path, source = tmp_path / "resnet.pt", small()
    extra = {"feature.weight": torch.zeros(4, 64), "feature.bias": torch.zeros(4)}
    torch.save({"state_dict": {**source.backbone.state_dict(), **extra}}, path)
    network = small()
    load_backbone(network, path)

    options = {"window_size": 4, "embed_dim": 12, "depths": (1, 1), "num_heads": (2, 2)}
    recognition = SwinTransformer(32, **options)
    torch.save(recognition.state_dict(), path)
    without = ExpressionNet("swin_t", image_size=32, **options, embedding_dim=0)
    load_backbone(without, path)
    for key, value in without.backbone.state_dict().items():
        assert torch.equal(value, recognition.state_dict()[key]), key


def test_predictions_are_named() -> None:
    found = predict(small(), torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8))
    assert [len(p.probabilities) for p in found] == [7, 7]
    assert found[0].expression == max(found[0].probabilities, key=found[0].probabilities.get)  # type: ignore[arg-type]
    assert str(found[0]).startswith(found[0].expression)
    assert found[0].attention.shape == (4, 4)
    with pytest.raises(ValueError, match=r"images must be \[B, 3, H, W\]"):
        predict(small(), torch.rand(3, 32, 32))


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="backbone must be one of swin_t, resnet18"):
        ExpressionNet("vgg")
    with pytest.raises(ValueError, match="num_classes must be at least 2, got 1"):
        ExpressionNet("resnet18", num_classes=1)
    with pytest.raises(ValueError, match="backbone_options must not hold image_size, which the"):
        ExpressionTask("resnet18", {"image_size": 64})
    with pytest.raises(ValueError, match=r"backbone_options do not fit resnet18: .*'widht'"):
        ExpressionNet("resnet18", widht=8)


def test_a_step_compiles_in_one_graph() -> None:
    """Features, both losses and their sum, forward and backward."""
    torch.manual_seed(0)
    task = ExpressionTask("resnet", dict(SMALL), image_size=32, consistency=0.5)
    task.make_losses(torch.tensor([5, 1, 2, 9, 4, 3, 6]))
    network, rsl, rac = task.network.eval(), task.loss, task.attention
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 3, 6, 1])

    def step(images: torch.Tensor) -> torch.Tensor:
        view, mirror = network.features(torch.cat([images, images.flip(-1)])).chunk(2)
        loss: torch.Tensor = rsl(network.classify(view), labels)
        return loss + 0.5 * rac(view, mirror, network.head.weight)

    found = {}
    for name, function in (("eager", step), ("compiled", torch.compile(step, fullgraph=True))):
        network.zero_grad()
        loss = function(images)
        loss.backward()
        found[name] = [loss.detach(), *(p.grad.clone() for p in network.parameters())]  # type: ignore[union-attr]
    for eager, compiled in zip(found["eager"], found["compiled"], strict=True):
        torch.testing.assert_close(compiled, eager, atol=1e-5, rtol=1e-3)
    losses = task.losses(images, labels)
    torch.testing.assert_close(losses["total"], found["eager"][0].expand(()))
