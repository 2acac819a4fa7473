"""Two small surrogates of different make, for images of a few dozen pixels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConvNet(nn.Module):
    """Three plain convolutions and a linear layer over a 2 x 2 average.

    Args:
        channels: of the images.
        classes: number of logits.
        width: channels of the first convolution; the last has four times as many.
    """

    def __init__(self, channels: int, classes: int, width: int = 16) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(16 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[b, C, H, W]`` -> logits ``[b, classes]``."""
        logits: Tensor = self.head(self.features(x))
        return logits


class ResidualNet(nn.Module):
    """A stem, two residual blocks with batch normalisation, global average pooling.

    Args:
        channels: of the images.
        classes: number of logits.
        width: channels of the first block; the second has twice as many.
    """

    def __init__(self, channels: int, classes: int, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.blocks = nn.Sequential(_Block(width, width, 1), _Block(width, 2 * width, 2))
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[b, C, H, W]`` -> logits ``[b, classes]``."""
        logits: Tensor = self.head(self.blocks(self.stem(x)).mean((2, 3)))
        return logits


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.branch(x) + self.shortcut(x))


ARCHITECTURES: dict[str, Callable[[int, int], nn.Module]] = {
    "conv": ConvNet,
    "residual": ResidualNet,
}
"""Surrogates by name; each is called with (channels, classes)."""


def train_classifier(
    architecture: str,
    images: Tensor,
    labels: Tensor,
    classes: int,
    *,
    steps: int = 300,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
    seed: int = 0,
) -> nn.Module:
    """Train one of `ARCHITECTURES` from scratch with Adam and a one-cycle schedule.

    Images are shifted by up to one pixel at random. The global generator is left as it was.

    Args:
        architecture: a key of `ARCHITECTURES`.
        images: ``[N, C, H, W]`` float in [0, 1].
        labels: ``[N]`` int64.
        classes: number of logits.
        steps: gradient steps.
        batch_size: images per step, drawn with replacement.
        learning_rate: the highest of the cycle.
        seed: of weights, batches and shifts.

    Returns:
        The model in evaluation mode, its parameters frozen.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"architecture must be one of {', '.join(ARCHITECTURES)}, got {architecture!r}"
        )
    height, width = images.shape[2:]
    padded = functional.pad(images, (1, 1, 1, 1), mode="replicate")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ARCHITECTURES[architecture](images.shape[1], classes)
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
        for _ in range(steps):
            rows = torch.randint(len(images), (batch_size,))
            top, left = torch.randint(3, (2,)).tolist()
            batch = padded[rows, :, top : top + height, left : left + width]
            loss = functional.cross_entropy(model(batch), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval().requires_grad_(False)
