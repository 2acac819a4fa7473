"""Residual networks of face recognition under insightface's key names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from facekernels.nn.layers import shortcut


class IResNet(nn.Module):
    """Residual network whose blocks have no activation after the sum, and an embedding.

    A block is BatchNorm, 3x3, BatchNorm, PReLU, 3x3 with the stride, BatchNorm; the embedding of
    the last map is BatchNorm, dropout, Linear over all positions, BatchNorm.

    Args:
        layers: blocks of each of the four stages.
        image_size: side S of the square images, pixels; it fixes the size of ``fc``.
        embedding_dim: D; 0 leaves out what follows the last stage.
        width: channels of the first stage; 64 as published.
        dropout: probability, before ``fc``.
        in_channels: of the images.

    Attributes:
        num_features: channels of `forward_features`, 8 · width.

    Shape:
        images ``[B, in_channels, S, S]``, in [-1, 1] and RGB for the published weights; features
        ``[B, num_features, S/16, S/16]``, rounded up; embedding ``[B, D]``, not normalised.

    The last BatchNorm's weight is 1 and takes no gradient, as published: the scale belongs to the
    margin loss.

    Raises:
        ValueError: an argument or the images' shape does not fit.

    Source: Deng et al., ArcFace, CVPR 2019, with its embedding "E"; keys and initial values are
    those of insightface's arcface_torch.
    """

    def __init__(
        self,
        layers: Sequence[int],
        image_size: int = 112,
        embedding_dim: int = 512,
        width: int = 64,
        dropout: float = 0.0,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if len(layers) != 4 or min(layers) < 1:
            raise ValueError(f"layers must be four numbers >= 1, got {tuple(layers)}")
        for name, value, least in (
            ("image_size", image_size, 1),
            ("embedding_dim", embedding_dim, 0),
            ("width", width, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be >= {least}, got {value}")
        self.image_size = image_size
        self.conv1 = nn.Conv2d(in_channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.prelu = nn.PReLU(width)
        channels, side = width, image_size
        for i, count in enumerate(layers):
            out = width * 2**i
            stage = nn.Sequential()
            for j in range(count):
                stage.append(_Block(channels, out, stride=2 if j == 0 else 1))
                channels = out
            self.add_module(f"layer{i + 1}", stage)
            side = (side + 1) // 2
        self.num_features = channels
        if embedding_dim:
            self.bn2 = nn.BatchNorm2d(channels)
            self.dropout = nn.Dropout(dropout)
            self.fc = nn.Linear(channels * side**2, embedding_dim)
            self.features = nn.BatchNorm1d(embedding_dim)
            self.features.weight.requires_grad = False
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, 0.1)

    def forward_features(self, images: Tensor) -> Tensor:
        """``[B, num_features, h, w]``: the last stage, before the embedding's first norm."""
        size = self.image_size
        if images.ndim != 4 or images.shape[2:] != (size, size):
            raise ValueError(
                f"images must be [B, C, {size}, {size}], got shape {tuple(images.shape)}"
            )
        x: Tensor = self.prelu(self.bn1(self.conv1(images)))
        for i in range(1, 5):
            x = self.get_submodule(f"layer{i}")(x)
        return x

    def embed(self, features: Tensor) -> Tensor:
        """``[B, D]`` embedding of `forward_features`' result."""
        x = self.dropout(self.bn2(features).flatten(1))
        embedding: Tensor = self.features(self.fc(x))
        return embedding

    def forward(self, images: Tensor) -> Tensor:
        """The embedding; features averaged over positions where there is none."""
        features = self.forward_features(images)
        return self.embed(features) if hasattr(self, "fc") else features.mean((2, 3))


def iresnet18(**options: Any) -> IResNet:
    """`IResNet` of 18 layers."""
    return IResNet((2, 2, 2, 2), **options)


def iresnet34(**options: Any) -> IResNet:
    """`IResNet` of 34 layers."""
    return IResNet((3, 4, 6, 3), **options)


def iresnet50(**options: Any) -> IResNet:
    """`IResNet` of 50 layers."""
    return IResNet((3, 4, 14, 3), **options)


def iresnet100(**options: Any) -> IResNet:
    """`IResNet` of 100 layers."""
    return IResNet((3, 13, 30, 3), **options)


class _Block(nn.Module):
    """Two 3x3 convolutions; the second has the stride."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.prelu = nn.PReLU(out)
        self.conv2 = nn.Conv2d(out, out, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample = shortcut(channels, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        y = self.bn3(self.conv2(y))
        return y + (x if self.downsample is None else self.downsample(x))
