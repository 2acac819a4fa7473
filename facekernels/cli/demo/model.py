"""A tiny face scorer: four convolutions, and a head that attends to channels in four branches."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from facekernels.ops import channel_gate, mlca_gate

WINDOW = 25
"""Pixels along each side of what one score sees: the size of the crops."""
STRIDE = 2
"""Pixels between neighbouring scores."""
CELLS = 7
"""Feature cells along each side of a window."""
BRANCHES, CHANNELS, HIDDEN = 4, 16, 4


class FaceScorer(nn.Module):
    """Scores how well a face fills a window.

    No convolution pads, so the features of a window are the same whether it is cut out first or
    lies in a photograph: a whole photograph costs one pass, and only the head runs per window.

    In each branch the head weighs channels (the gate of MLCA) and then votes twice: for where
    things are, by a template over the gated map, and for what is there, by its pooled channels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3), nn.ReLU(),
            nn.Conv2d(16, 24, 3, stride=STRIDE), nn.ReLU(),
            nn.Conv2d(24, 32, 3), nn.ReLU(),
            nn.Conv2d(32, BRANCHES * CHANNELS, 3),
        )  # fmt: skip
        self.w1 = nn.Parameter(torch.randn(BRANCHES, HIDDEN, CHANNELS) * CHANNELS**-0.5)
        self.b1 = nn.Parameter(torch.zeros(BRANCHES, HIDDEN))
        self.w2 = nn.Parameter(torch.randn(BRANCHES, CHANNELS, HIDDEN) * CHANNELS**-0.5)
        self.b2 = nn.Parameter(torch.zeros(BRANCHES, CHANNELS))
        self.where = nn.Parameter(torch.randn(BRANCHES, CHANNELS, CELLS, CELLS) * 0.05)
        self.what = nn.Parameter(torch.randn(BRANCHES, CHANNELS) * 0.05)
        self.bias = nn.Parameter(torch.full((BRANCHES,), -0.25))

    @property
    def gate(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The gate's weights, as the ops take them after the map."""
        return self.w1, self.b1, self.w2, self.b2

    def windows(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Branch features of every window of one image.

        Args:
            image: ``[1, 1, H, W]`` in [0, 1].

        Returns:
            ``[G, N, C, 7, 7]`` with N = rows * columns windows, and ``(rows, columns)``.
        """
        maps = self.features(image - 0.5)[0].unfold(1, CELLS, 1).unfold(2, CELLS, 1)
        rows, columns = maps.shape[1:3]
        flat = maps.permute(1, 2, 0, 3, 4).reshape(rows * columns, -1, CELLS, CELLS)
        return split_branches(flat), (rows, columns)

    def votes(self, maps: Tensor) -> Tensor:
        """Branch features ``[G, B, C, 7, 7]`` -> votes ``[G, B]``, whose sum is the logit."""
        gated = torch.relu(channel_gate(maps, *self.gate))
        where = torch.einsum("gbchw,gchw->gb", gated, self.where)
        what = torch.einsum("gbc,gc->gb", mlca_gate(maps, *self.gate), self.what)
        return where + what + self.bias[:, None]

    def forward(self, crops: Tensor) -> Tensor:
        """Crops ``[B, 1, 25, 25]`` -> logits ``[B]``."""
        return self.votes(split_branches(self.features(crops - 0.5))).sum(0)


def split_branches(maps: Tensor) -> Tensor:
    """``[B, G * C, h, w]`` -> ``[G, B, C, h, w]``; a view, the ops take its strides."""
    return cast(Tensor, maps.unflatten(1, (BRANCHES, CHANNELS))).transpose(0, 1)
