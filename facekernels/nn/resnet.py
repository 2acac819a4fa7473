"""ResNets under torchvision's key names, also in sizes for small images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from facekernels.nn.layers import shortcut


class ResNet(nn.Module):
    """Residual network whose map before pooling can be had.

    Args:
        layers: blocks of each of the four stages.
        bottleneck: blocks of 1x1, 3x3 and 1x1 convolutions (ResNet-50) instead of two 3x3.
        num_classes: outputs of ``fc``; 0 leaves it out.
        width: channels of the first stage; 64 as published.
        stem: ``"imagenet"``: 7x7 with stride 2 and max pooling, for 112 to 224 pixels;
            ``"strided"``: 3x3 with stride 2, for 48 to 112; ``"small"``: 3x3 with stride 1, for 32
            to 64.
        in_channels: of the images.

    Attributes:
        num_features: channels of `forward_features`.

    Shape:
        images ``[B, in_channels, H, W]``; features ``[B, num_features, H/32, W/32]`` (H/16 with the
        strided stem, H/8 with the small one), rounded up; logits ``[B, num_classes]``.

    Source: He et al., Deep Residual Learning, CVPR 2016; the stride sits in the 3x3 convolution
    of a bottleneck, as in torchvision, whose weights fit.
    """

    def __init__(
        self,
        layers: Sequence[int] = (2, 2, 2, 2),
        bottleneck: bool = False,
        num_classes: int = 0,
        width: int = 64,
        stem: Literal["imagenet", "strided", "small"] = "imagenet",
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if len(layers) != 4 or min(layers) < 1:
            raise ValueError(f"layers must be four numbers >= 1, got {tuple(layers)}")
        if stem not in _STEMS:
            raise ValueError(f"stem must be one of {', '.join(_STEMS)}, got {stem!r}")
        self.stem = stem
        kernel, stride = _STEMS[stem]
        self.conv1 = nn.Conv2d(in_channels, width, kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        block = _Bottleneck if bottleneck else _BasicBlock
        channels = width
        for i, count in enumerate(layers):
            out = width * 2**i
            stage = nn.Sequential()
            for j in range(count):
                stage.append(block(channels, out, stride=2 if i > 0 and j == 0 else 1))
                channels = out * block.expansion
            self.add_module(f"layer{i + 1}", stage)
        self.num_features = channels
        if num_classes:
            self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, images: Tensor) -> Tensor:
        """The map of the last stage."""
        x = F.relu(self.bn1(self.conv1(images)))
        if self.stem == "imagenet":
            x = F.max_pool2d(x, 3, 2, 1)
        for i in range(1, 5):
            x = self.get_submodule(f"layer{i}")(x)
        return x

    def forward(self, images: Tensor) -> Tensor:
        """Logits; features averaged over positions where there is no classifier."""
        pooled = self.forward_features(images).mean((2, 3))
        return self.fc(pooled) if hasattr(self, "fc") else pooled


# Kernel and stride of the first convolution.
_STEMS = {"imagenet": (7, 2), "strided": (3, 2), "small": (3, 1)}


def resnet18(**options: Any) -> ResNet:
    """`ResNet` of 18 layers."""
    return ResNet((2, 2, 2, 2), **options)


def resnet34(**options: Any) -> ResNet:
    """`ResNet` of 34 layers."""
    return ResNet((3, 4, 6, 3), **options)


def resnet50(**options: Any) -> ResNet:
    """`ResNet` of 50 layers, with bottlenecks."""
    return ResNet((3, 4, 6, 3), bottleneck=True, **options)


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions."""

    expansion = 1

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample = shortcut(channels, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class _Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the last four times as wide."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = width * self.expansion
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample = shortcut(channels, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))
