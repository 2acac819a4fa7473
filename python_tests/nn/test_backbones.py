"""Backbones: published key names and sizes, and what their parts must do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from facekernels.nn import MobileNetV2, ResNet, SwinTransformer, resnet18, resnet34, resnet50
from facekernels.nn.layers import DropPath

SMALL_SWIN: dict[str, Any] = {
    "image_size": 64, "window_size": 4, "embed_dim": 24, "depths": (1, 2, 2, 1),
    "drop_path_rate": 0.2,
}  # fmt: skip


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameter_counts_are_the_published_ones() -> None:
    swin = SwinTransformer(unused_head=True)
    assert parameters(swin) == 28_895_226
    assert parameters(SwinTransformer()) == 28_501_498
    assert [parameters(layer) for layer in swin.layers] == [
        299_190,
        1_188_204,
        11_841_672,
        14_183_856,
    ]
    assert parameters(swin.patch_embed) == 1_440
    assert parameters(swin.feature) == 985_600
    assert parameters(resnet18(num_classes=1000)) == 11_689_512
    assert parameters(resnet34(num_classes=1000)) == 21_797_672
    assert parameters(resnet50(num_classes=1000)) == 25_557_032
    assert parameters(MobileNetV2(1000)) == 3_504_872


def test_swin_keys_are_those_of_the_released_code() -> None:
    keys = set(SwinTransformer(unused_head=True).state_dict())
    expected = {"patch_embed.proj.weight", "patch_embed.proj.bias", "patch_embed.norm.weight",
                "patch_embed.norm.bias", "norm.weight", "norm.bias", "head.weight", "head.bias",
                "feature.0.weight", "feature.2.weight"}  # fmt: skip
    for i in (1, 3):
        names = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        expected |= {f"feature.{i}.{name}" for name in names}
    for i, (depth, masked) in enumerate([(2, True), (2, True), (6, True), (2, False)]):
        for j in range(depth):
            block = f"layers.{i}.blocks.{j}."
            expected |= {
                f"{block}{layer}.{name}"
                for layer in ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
                for name in ("weight", "bias")
            }
            expected |= {f"{block}attn.relative_position_bias_table",
                         f"{block}attn.relative_position_index"}  # fmt: skip
            if masked and j % 2:
                expected.add(f"{block}attn_mask")
        if i < 3:
            expected |= {f"layers.{i}.downsample.{name}"
                         for name in ("reduction.weight", "norm.weight", "norm.bias")}  # fmt: skip
    assert keys == expected


def test_swin_buffers_of_the_released_code() -> None:
    state = SwinTransformer().state_dict()
    index = state["layers.0.blocks.0.attn.relative_position_index"]
    # Same position: the table's middle row; first against last token: its first row.
    assert index.diagonal().unique().tolist() == [6 * 13 + 6]
    assert index[0, -1] == 0
    assert index[-1, 0] == 13 * 13 - 1
    mask = state["layers.0.blocks.1.attn_mask"]
    assert mask.shape == (64, 49, 49)
    assert mask[0].count_nonzero() == 0
    assert set(mask.unique().tolist()) == {-100.0, 0.0}
    # The last window mixes four corners of the map: rows and columns are cut 4 : 3.
    assert (mask[-1] == 0).sum() == 16**2 + 2 * 12**2 + 9**2


def test_swin_taps_feed_head_and_features() -> None:
    torch.manual_seed(0)
    swin = SwinTransformer(**SMALL_SWIN).eval()
    images = torch.randn(2, 3, 64, 64)
    taps = swin.forward_taps(images)
    shapes = [tuple(t.shape[1:]) for t in taps]
    assert shapes == [(48, 16, 16), (96, 8, 8), (192, 4, 4), (192, 4, 4)]
    assert torch.equal(swin.forward_features(images), taps[-1])
    tokens = swin.norm(taps[-1].permute(0, 2, 3, 1)).mean((1, 2))
    torch.testing.assert_close(swin(images), swin.feature(tokens))


def test_attention_does_not_reach_over_a_window() -> None:
    """A changed token reaches its own window only, and in a shifted block the shifted one."""
    torch.manual_seed(0)
    swin = SwinTransformer(image_size=56, embed_dim=24, depths=(2,), num_heads=(3,)).double().eval()
    x = torch.randn(1, 28, 28, 24, dtype=torch.float64)
    moved = x.clone()
    moved[0, 3, 3] = torch.randn(24, dtype=torch.float64)
    for block, rows in (
        (swin.layers[0].blocks[0], range(7)),
        (swin.layers[0].blocks[1], range(3, 10)),
    ):
        reached = (block(moved) - block(x)).abs().amax((0, 2, 3)).nonzero()[:, 0].tolist()
        assert reached == list(rows)


def test_merging_takes_patches_column_by_column() -> None:
    merge = (
        SwinTransformer(image_size=56, embed_dim=2, depths=(1, 1), num_heads=(1, 1))
        .layers[0]
        .downsample
    )
    seen: list[torch.Tensor] = []
    merge.norm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    x = torch.arange(28 * 28 * 2.0).view(1, 28, 28, 2)
    merge(x)
    expected = torch.cat([x[0, 0, 0], x[0, 1, 0], x[0, 0, 1], x[0, 1, 1]])
    assert torch.equal(seen[0][0, 0, 0], expected)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: resnet18(width=8, stem="small"), (2, 64, 4, 4)),
        (lambda: resnet50(width=8, stem="small"), (2, 256, 4, 4)),
        (lambda: ResNet((1, 1, 1, 1), width=8), (2, 64, 1, 1)),
        (lambda: MobileNetV2(width=0.25), (2, 1280, 1, 1)),
    ],
)
def test_features_average_to_the_output(make, shape) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    model = make().eval()
    images = torch.randn(2, 3, 32, 32)
    features = model.forward_features(images)
    assert features.shape == shape
    assert features.shape[1] == model.num_features
    torch.testing.assert_close(model(images), features.mean((2, 3)))
    channels_last = model(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(channels_last, model(images), atol=1e-5, rtol=1e-4)


def test_resnet_keys_are_torchvisions() -> None:
    keys = set(resnet50(num_classes=10).state_dict())
    assert {"conv1.weight", "bn1.running_var", "layer1.0.downsample.0.weight",
            "layer1.0.downsample.1.bias", "layer4.2.conv3.weight", "fc.bias"} <= keys  # fmt: skip
    assert len(keys) == 320
    basic = set(resnet18(num_classes=10).state_dict())
    assert "layer1.0.downsample.0.weight" not in basic
    assert "layer2.0.downsample.0.weight" in basic
    assert len(basic) == 122
    mobile = set(MobileNetV2(10).state_dict())
    assert {"features.1.conv.1.weight", "features.2.conv.0.0.weight", "features.18.0.weight",
            "classifier.1.bias"} <= mobile  # fmt: skip
    assert len(mobile) == 314


@pytest.mark.parametrize(
    "make",
    [
        lambda: SwinTransformer(**SMALL_SWIN),
        lambda: resnet18(width=8, stem="small"),
        lambda: MobileNetV2(width=0.25),
    ],
    ids=["swin", "resnet", "mobilenet"],
)
def test_compiles_in_one_graph(make) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    model = make().eval()
    images = torch.randn(2, 3, 64, 64)
    compiled = torch.compile(model.forward_features, fullgraph=True)
    torch.testing.assert_close(
        compiled(images), model.forward_features(images), atol=1e-4, rtol=1e-3
    )


def test_attention_is_float32_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    swin = SwinTransformer(**SMALL_SWIN).eval()
    attend, seen = F.scaled_dot_product_attention, set()

    def record(query: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.add(query.dtype)
        return attend(query, *rest)

    monkeypatch.setattr(F, "scaled_dot_product_attention", record)
    with torch.autocast("cpu", torch.bfloat16):
        swin.forward_features(torch.randn(1, 3, 64, 64))
    assert seen == {torch.float32}


def test_drop_path_keeps_the_mean() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.25)
    kept = drop(torch.ones(20_000, 2))
    assert kept.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(kept[:, 0], kept[:, 1])
    assert kept.mean().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(drop.eval()(kept), kept)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: SwinTransformer(image_size=113),
            "image_size must be a multiple of patch_size 2, got 113",
        ),
        (lambda: SwinTransformer(image_size=100), "50 x 50 is not a multiple of window_size 7"),
        (lambda: SwinTransformer(image_size=56), "7 x 7 cannot be halved"),
        (lambda: SwinTransformer(depths=(2,)), "equal length"),
        (lambda: SwinTransformer(embed_dim=32), "num_heads must divide"),
        (
            lambda: SwinTransformer(**SMALL_SWIN)(torch.ones(1, 3, 56, 56)),
            r"images must be \[B, C, 64, 64\]",
        ),
        (lambda: ResNet((1, 1)), "layers must be four numbers"),
        (lambda: ResNet(stem="tiny"), "stem must be"),
        (lambda: MobileNetV2(width=0), "width must be positive"),
        (lambda: DropPath(1.0), r"p must be in \[0, 1\)"),
    ],
)
def test_bad_arguments_are_named(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make()
