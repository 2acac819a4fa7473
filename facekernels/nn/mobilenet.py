"""MobileNetV2 under torchvision's key names."""

from __future__ import annotations

from torch import Tensor, nn

# Expansion, channels, blocks, stride of the first: table 2 of the paper.
_STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2),
    (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


class MobileNetV2(nn.Module):
    """Inverted residuals with linear bottlenecks.

    Args:
        num_classes: outputs of ``classifier.1``; 0 leaves the classifier out.
        width: multiplier of all channels, rounded to multiples of 8.
        dropout: before the classifier.

    Attributes:
        num_features: channels of `forward_features`, 1280 up to width 1.

    Shape:
        images ``[B, 3, H, W]``; features ``[B, num_features, H/32, W/32]``, rounded up; logits
        ``[B, num_classes]``.

    Source: Sandler et al., MobileNetV2, CVPR 2018.
    """

    def __init__(self, num_classes: int = 0, width: float = 1.0, dropout: float = 0.2) -> None:
        super().__init__()
        if width <= 0:
            raise ValueError(f"width must be positive, got {width}")
        channels = _round(32 * width)
        layers: list[nn.Module] = [_convolution(3, channels, 3, stride=2)]
        for expansion, base, count, first in _STAGES:
            out = _round(base * width)
            for j in range(count):
                layers.append(_InvertedResidual(channels, out, first if j == 0 else 1, expansion))
                channels = out
        self.num_features = _round(1280 * max(1.0, width))
        layers.append(_convolution(channels, self.num_features, 1))
        self.features = nn.Sequential(*layers)
        if num_classes:
            self.classifier = nn.Sequential(
                nn.Dropout(dropout), nn.Linear(self.num_features, num_classes)
            )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward_features(self, images: Tensor) -> Tensor:
        """The map of the last convolution."""
        return self.features(images)

    def forward(self, images: Tensor) -> Tensor:
        """Logits; features averaged over positions where there is no classifier."""
        pooled = self.forward_features(images).mean((2, 3))
        return self.classifier(pooled) if hasattr(self, "classifier") else pooled


class _InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 convolution per channel, linear 1x1 projection."""

    def __init__(self, channels: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(_convolution(channels, hidden, 1))
        layers += [
            _convolution(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, out, 1, bias=False),
            nn.BatchNorm2d(out),
        ]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


def _convolution(
    channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU6."""
    return nn.Sequential(
        nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU6(inplace=True),
    )


def _round(channels: float) -> int:
    """To a multiple of 8, and not down by more than a tenth: the released code's rule."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
