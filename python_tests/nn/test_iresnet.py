"""IResNet: insightface's key names and sizes, and its formula written once more from the keys."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facekernels.nn import IResNet, iresnet18, iresnet34, iresnet50, iresnet100

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
SMALL: dict[str, Any] = {"layers": (1, 2, 1, 1), "image_size": 40, "width": 4, "embedding_dim": 6}

MODELS = [
    (iresnet18, (2, 2, 2, 2), 24_025_600, 187),
    (iresnet34, (3, 4, 6, 3), 34_139_328, 331),
    (iresnet50, (3, 4, 14, 3), 43_590_848, 475),
    (iresnet100, (3, 13, 30, 3), 65_156_160, 925),
]


def shapes_of_the_released_code(depths: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Key to shape at 112 pixels and 512 dimensions."""
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(name: str, channels: int) -> None:
        shapes.update({f"{name}.{key}": (channels,) for key in NORM[:4]})
        shapes[f"{name}.{NORM[4]}"] = ()

    shapes |= {"conv1.weight": (64, 3, 3, 3), "prelu.weight": (64,)}
    norm("bn1", 64)
    channels = 64
    for i, depth in enumerate(depths):
        out = 64 << i
        for j in range(depth):
            block = f"layer{i + 1}.{j}"
            norm(f"{block}.bn1", channels)
            shapes[f"{block}.conv1.weight"] = (out, channels, 3, 3)
            norm(f"{block}.bn2", out)
            shapes[f"{block}.prelu.weight"] = (out,)
            shapes[f"{block}.conv2.weight"] = (out, out, 3, 3)
            norm(f"{block}.bn3", out)
            if j == 0:
                shapes[f"{block}.downsample.0.weight"] = (out, channels, 1, 1)
                norm(f"{block}.downsample.1", out)
            channels = out
    norm("bn2", 512)
    shapes |= {"fc.weight": (512, 512 * 7 * 7), "fc.bias": (512,)}
    norm("features", 512)
    return shapes


@pytest.mark.parametrize(("make", "depths", "parameters", "entries"), MODELS)
def test_keys_shapes_and_counts(make, depths, parameters: int, entries: int) -> None:  # type: ignore[no-untyped-def]
    with torch.device("meta"):
        model = make()
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert shapes == shapes_of_the_released_code(depths)
    assert len(shapes) == entries
    assert sum(p.numel() for p in model.parameters()) == parameters


def by_keys(state: dict[str, Tensor], depths: tuple[int, ...], x: Tensor) -> Tensor:
    """The network in evaluation, from nothing but its state dict."""

    def norm(name: str, x: Tensor) -> Tensor:
        mean, var, weight, bias = (
            state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        )
        view = (-1,) + (1,) * (x.ndim - 2)
        scale = weight / (var + 1e-5).sqrt()
        return x * scale.view(view) + (bias - mean * scale).view(view)

    def prelu(name: str, x: Tensor) -> Tensor:
        return x.clamp(min=0) + state[f"{name}.weight"].view(-1, 1, 1) * x.clamp(max=0)

    x = prelu("prelu", norm("bn1", F.conv2d(x, state["conv1.weight"], padding=1)))
    for i, depth in enumerate(depths):
        for j in range(depth):
            block, stride = f"layer{i + 1}.{j}", 2 if j == 0 else 1
            y = norm(f"{block}.bn1", x)
            y = F.conv2d(y, state[f"{block}.conv1.weight"], padding=1)
            y = prelu(f"{block}.prelu", norm(f"{block}.bn2", y))
            y = F.conv2d(y, state[f"{block}.conv2.weight"], stride=stride, padding=1)
            y = norm(f"{block}.bn3", y)
            if j == 0:
                x = F.conv2d(x, state[f"{block}.downsample.0.weight"], stride=2)
                x = norm(f"{block}.downsample.1", x)
            x = x + y
    # Channels vary slowest in the flattened map.
    x = norm("bn2", x).reshape(len(x), -1) @ state["fc.weight"].T + state["fc.bias"]
    return norm("features", x)


def small(**options: Any) -> IResNet:
    """In evaluation, no entry of the state at its initial value."""
    torch.manual_seed(0)
    model = IResNet(**SMALL | options)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5 if value.ndim == 1 else value * 3)
    return model.eval()


@pytest.mark.parametrize("size", [40, 17, 1])
def test_value_by_the_formula(size: int) -> None:
    model = small(image_size=size).double()
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    expected = by_keys(model.state_dict(), SMALL["layers"], images)
    torch.testing.assert_close(model(images), expected, atol=1e-12, rtol=1e-12)


def test_embedding_is_of_the_features() -> None:
    model = small()
    images = torch.randn(2, 3, 40, 40)
    features = model.forward_features(images)
    assert features.shape == (2, model.num_features, 3, 3)
    assert model.num_features == 32
    assert torch.equal(model.embed(features), model(images))
    bare = small(embedding_dim=0)
    missing = bare.load_state_dict(model.state_dict(), strict=False)
    assert not missing.missing_keys
    assert {key.split(".")[0] for key in missing.unexpected_keys} == {"bn2", "fc", "features"}
    torch.testing.assert_close(bare(images), features.mean((2, 3)))


def test_channels_last_gives_the_same() -> None:
    model = small()
    images = torch.randn(2, 3, 40, 40)
    expected = model(images)
    model = model.to(memory_format=torch.channels_last)
    features = model.forward_features(images.to(memory_format=torch.channels_last))
    assert features.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model.embed(features), expected, atol=1e-4, rtol=1e-4)


def test_dropout_is_before_fc() -> None:
    """Off by default and in evaluation; else whole entries of the flattened map are zero."""
    seen: list[Tensor] = []
    model = small(dropout=0.5)
    model.fc.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    features = torch.randn(8, 32, 3, 3).abs()
    model.embed(features)
    model.train().embed(features)
    assert (seen[0] != 0).all()
    assert (seen[1] == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert IResNet(**SMALL).dropout.p == 0


def test_only_the_scale_of_the_embedding_is_fixed() -> None:
    model = IResNet(**SMALL)
    model(torch.randn(4, 3, 40, 40)).square().sum().backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without == {"features.weight"}
    assert (model.features.weight == 1).all()


def test_initial_values_are_the_published_ones() -> None:
    torch.manual_seed(0)
    model = IResNet((1, 1, 1, 1), image_size=16, embedding_dim=8, width=32)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 1000:
            assert module.weight.std().item() == pytest.approx(0.1, rel=0.06)
        elif isinstance(module, nn.PReLU):
            assert (module.weight == 0.25).all()
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()


def test_compiles_in_one_graph() -> None:
    model = small()
    images = torch.randn(2, 3, 40, 40)
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(compiled(images), model(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IResNet((1, 1)), r"layers must be four numbers >= 1, got \(1, 1\)"),
        (lambda: iresnet18(image_size=0), "image_size must be >= 1, got 0"),
        (lambda: iresnet18(embedding_dim=-1), "embedding_dim must be >= 0, got -1"),
        (lambda: iresnet18(width=0), "width must be >= 1, got 0"),
        (lambda: iresnet18(width=1, dropout=2.0), "dropout probability .* but got 2.0"),
        (
            lambda: IResNet(**SMALL)(torch.ones(1, 3, 112, 112)),
            r"images must be \[B, C, 40, 40\], got shape \(1, 3, 112, 112\)",
        ),
    ],
)
def test_bad_arguments_are_named(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make()
