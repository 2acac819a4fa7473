"""SwinFace's multi-level channel attention module, all branches in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from facekernels import _check
from facekernels.ops import channel_gate, mlca_gate

_SPATIAL = (None, "cbam", "lanet")


class MLCA(nn.Module):
    """Feature attention of SwinFace: per branch, multi-level 3x3 convolutions, CBAM channel gate,
    ReLU, global pooling and BatchNorm.

    Drop-in for the public SwinFace module with ``conv_mode="split"``: the same state dict (keys
    ``nets.{i}.conv.convs.{j}.weight``, ``nets.{i}.channel_attention.mlp.{1,3}.*``,
    ``nets.{i}.norm.*``), the same outputs and gradients. Parameters are ordinary per-branch
    parameters, so optimizers, weight decay groups and per-branch freezing work as usual; each
    forward pass concatenates them, which costs one copy of the weights and turns branches x levels
    convolutions into one per level and the attention of all branches into one kernel. The key names
    of the spatial options are this package's own.

    Args:
        in_channels: channels of each level's slice of the input, in order.
        out_channels: channels each branch gets from each level; their sum is the feature size.
        branches: number of analysis branches.
        reduction: the gate's hidden size is ``max(1, sum(out_channels) // reduction)``.
        kernel_size: odd size of the level convolutions.
        pool: ``"max"`` (published) or ``"avg"``, the global pooling.
        spatial: None (published), ``"cbam"`` (CBAM's spatial gate) or ``"lanet"`` (two 1x1
            bottleneck maps, their maximum; ``lanet_drop`` drops one map per sample in training).
        lanet_drop: probability of that drop, MAD in the published code.

    Shape:
        input ``[B, sum(in_channels), H, W]``, NCHW or channels_last, float32, float64, float16 or
        bfloat16; output ``[branches, B, sum(out_channels)]``.

    Raises:
        TypeError: the input is not a floating-point tensor.
        ValueError: an argument or the input's shape does not fit.

    Source: SwinFace (Qin et al., arXiv 2308.11509, figure 3 and section III-B); the order ReLU,
    pooling, BatchNorm is the released code's.
    """

    def __init__(
        self,
        in_channels: Sequence[int] = (192, 384, 768, 768),
        out_channels: Sequence[int] = (47, 93, 186, 186),
        branches: int = 11,
        reduction: int = 16,
        kernel_size: int = 3,
        pool: str = "max",
        spatial: str | None = None,
        lanet_drop: float = 0.6,
    ) -> None:
        super().__init__()
        if len(in_channels) != len(out_channels) or not in_channels:
            raise ValueError(
                "in_channels and out_channels must be of equal length >= 1, got "
                f"{tuple(in_channels)} and {tuple(out_channels)}"
            )
        if min(*in_channels, *out_channels, branches, reduction, kernel_size) < 1:
            raise ValueError("channels, branches, reduction and kernel_size must be at least 1")
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        _check.one_of("pool", pool, ("max", "avg"))
        if spatial not in _SPATIAL:
            raise ValueError(f"spatial must be None, 'cbam' or 'lanet', got {spatial!r}")
        if not 0 <= lanet_drop <= 1:
            raise ValueError(f"lanet_drop must be in [0, 1], got {lanet_drop}")
        self.in_channels = tuple(in_channels)
        self.out_channels = tuple(out_channels)
        self.pool = pool
        self.spatial = spatial
        self.nets = nn.ModuleList(
            _Branch(
                self.in_channels, self.out_channels, reduction, kernel_size, spatial, lanet_drop
            )
            for _ in range(branches)
        )

    def forward(self, x: Tensor) -> Tensor:
        _check.floating("x", x)
        if x.ndim != 4 or x.shape[1] != sum(self.in_channels):
            raise ValueError(
                f"x must be [B, {sum(self.in_channels)}, H, W], got shape {_check.shape_of(x)}"
            )
        features = self._multi_level_features(x)
        gate = self._gate_weights()
        if self.spatial is None:
            pooled = mlca_gate(features, *gate, pool=self.pool)
        else:
            gated = channel_gate(features, *gate)
            maps = [
                net.spatial_attention(c) for net, c in zip(self._branches(), gated, strict=True)
            ]
            flat = torch.relu(torch.stack(maps)).flatten(3)
            pooled = flat.max(-1).values if self.pool == "max" else flat.mean(-1)
        return torch.stack([net.norm(v) for net, v in zip(self._branches(), pooled, strict=True)])

    def _branches(self) -> list[_Branch]:
        return cast(list[_Branch], list(self.nets))

    def _multi_level_features(self, x: Tensor) -> Tensor:
        """One convolution per level for all branches: [G, B, C, H, W]."""
        branches = len(self.nets)
        levels = []
        for j, level in enumerate(x.split(self.in_channels, dim=1)):
            weight = torch.cat([net.conv.weight(j) for net in self._branches()])
            y = nn.functional.conv2d(level, weight, padding="same")
            levels.append(y.unflatten(1, (branches, self.out_channels[j])))
        return torch.cat(levels, dim=2).transpose(0, 1)

    def _gate_weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        layers = [net.channel_attention.mlp for net in self._branches()]
        w1, b1, w2, b2 = (
            torch.stack([getattr(mlp[i], name) for mlp in layers])
            for i, name in ((1, "weight"), (1, "bias"), (3, "weight"), (3, "bias"))
        )
        return w1, b1, w2, b2

    def extra_repr(self) -> str:
        return (
            f"in_channels={self.in_channels}, out_channels={self.out_channels}, "
            f"branches={len(self.nets)}, pool={self.pool!r}, spatial={self.spatial!r}"
        )


class _Branch(nn.Module):
    """Parameters of one branch, under the names of the published checkpoints."""

    def __init__(
        self,
        in_channels: tuple[int, ...],
        out_channels: tuple[int, ...],
        reduction: int,
        kernel_size: int,
        spatial: str | None,
        lanet_drop: float,
    ) -> None:
        super().__init__()
        channels = sum(out_channels)
        self.conv = _LevelConvs(in_channels, out_channels, kernel_size)
        self.channel_attention = _Gate(channels, max(1, channels // reduction))
        if spatial == "cbam":
            self.spatial_attention: nn.Module = SpatialGate()
        elif spatial == "lanet":
            self.spatial_attention = LANet(channels, drop=lanet_drop)
        self.norm = nn.BatchNorm1d(channels, eps=2e-5)


class _LevelConvs(nn.Module):
    def __init__(self, ins: tuple[int, ...], outs: tuple[int, ...], kernel_size: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, kernel_size, padding=kernel_size // 2, bias=False)
            for i, o in zip(ins, outs, strict=True)
        )

    def weight(self, level: int) -> Tensor:
        return cast(Tensor, self.convs[level].weight)


class _Gate(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        # Indices 1 and 3: the published MLP starts with a Flatten and has a ReLU between.
        self.mlp = nn.Sequential(
            nn.Flatten(), nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels)
        )


class SpatialGate(nn.Module):
    """CBAM's spatial gate: x [B, C, H, W] times a map in (0, 1) made from its channel maximum and
    mean by a convolution and BatchNorm. Source: CBAM (arXiv 1807.06521, equation 3).
    """

    def __init__(self, kernel_size: int = 7) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.bn = nn.BatchNorm2d(1, eps=1e-5, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        summary = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], dim=1)
        return x * torch.sigmoid(self.bn(self.conv(summary)))


class LANet(nn.Module):
    """Local attention maps: x [B, C, H, W] times the maximum of several 1x1 bottleneck maps.

    In training, with probability `drop` per sample, one of the maps (drawn uniformly) is zeroed
    first (MAD, Transformer-based FER). The published code drops in evaluation, too; this does not.
    """

    def __init__(self, channels: int, maps: int = 2, drop: float = 0.6) -> None:
        super().__init__()
        self.drop = drop
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, max(1, channels // 2), 1),
                nn.ReLU(),
                nn.Conv2d(max(1, channels // 2), 1, 1),
                nn.Sigmoid(),
            )
            for _ in range(maps)
        )

    def forward(self, x: Tensor) -> Tensor:
        maps = torch.cat([branch(x) for branch in self.branches], dim=1)
        if self.training and self.drop > 0:
            batch, count = maps.shape[:2]
            chosen = torch.randint(count, (batch, 1), device=x.device)
            dropped = torch.rand(batch, 1, device=x.device) < self.drop
            hit = (torch.arange(count, device=x.device) == chosen) & dropped
            maps = maps.masked_fill(hit[..., None, None], 0.0)
        return x * maps.amax(1, keepdim=True)


def load_swinface_attention(module: MLCA, state: Mapping[str, Any]) -> None:
    """Load the feature-attention part of a SwinFace checkpoint, with or without its ``fam.`` or
    ``module.`` prefix.

    Raises:
        RuntimeError: keys or shapes do not fit (torch's message names them).
    """
    stripped = {
        key.removeprefix("module.").removeprefix("fam."): value for key, value in state.items()
    }
    module.load_state_dict(stripped)
