"""SwinFace's multi-level channel attention module, all branches in one pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from facekernels import _check
from facekernels.ops import channel_gate, conv_mean_max, mlca_gate

_SPATIAL = (None, "cbam", "lanet")


class MLCA(nn.Module):
    """Feature attention of SwinFace: per branch, multi-level 3x3 convolutions, CBAM channel gate,
    ReLU, global pooling and BatchNorm.

    Drop-in for the public SwinFace module with ``conv_mode="split"``: the same state dict (keys
    ``nets.{i}.conv.convs.{j}.weight``, ``nets.{i}.channel_attention.mlp.{1,3}.*``,
    ``nets.{i}.norm.*``), the same outputs and gradients. Parameters are ordinary per-branch
    parameters, so optimizers, weight decay groups and per-branch freezing work as usual; each
    forward pass concatenates them where that pays (on a GPU, and in large batches), which costs one
    copy of the weights and turns branches x levels convolutions into one per level. The key names
    of the spatial options are this package's own.

    Args:
        in_channels: channels of each level's slice of the input, in order.
        out_channels: channels each branch gets from each level; their sum is the feature size.
        branches: number of analysis branches.
        reduction: the gate's hidden size is ``max(1, sum(out_channels) // reduction)``.
        kernel_size: odd size of the level convolutions.
        pool: ``"max"`` (published) or ``"avg"``, the global pooling.
        channel_attention: False leaves the gate out, for comparison: convolutions, ReLU, pooling
            and BatchNorm only.
        spatial: None (published), ``"cbam"`` (CBAM's spatial gate) or ``"lanet"`` (two 1x1
            bottleneck maps, their maximum; ``lanet_drop`` drops one map per sample in training).
        lanet_drop: probability of that drop, MAD in the published code.
        structured_backward: with ``pool="max"`` and no spatial option, the convolutions' backward
            pass may use that only their mean and maximum are needed: the same gradients up to
            rounding, several times faster on the CPU (`facekernels.ops.conv_mean_max`). None uses
            it on the CPU where it was measured to be faster and autocast is off; True asks for it
            everywhere, False turns it off.

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
        channel_attention: bool = True,
        spatial: str | None = None,
        lanet_drop: float = 0.6,
        structured_backward: bool | None = None,
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
        if structured_backward and (pool != "max" or spatial is not None):
            raise ValueError(
                "structured_backward=True needs pool='max' and spatial=None, got "
                f"pool={pool!r} and spatial={spatial!r}"
            )
        self.in_channels = tuple(in_channels)
        self.out_channels = tuple(out_channels)
        self.pool = pool
        self.channel_attention = channel_attention
        self.spatial = spatial
        self.structured_backward = structured_backward
        self.nets = nn.ModuleList(
            _Branch(
                self.in_channels,
                self.out_channels,
                reduction if channel_attention else None,
                kernel_size,
                spatial,
                lanet_drop,
            )
            for _ in range(branches)
        )

    def forward(self, x: Tensor) -> Tensor:
        _check.floating("x", x)
        if x.ndim != 4 or x.shape[1] != sum(self.in_channels):
            raise ValueError(
                f"x must be [B, {sum(self.in_channels)}, H, W], got shape {_check.shape_of(x)}"
            )
        gate = self._gate_weights() if self.channel_attention else None
        if self._uses_pools(x):
            mean, maximum = self._multi_level_pools(x)
            pooled = torch.relu(maximum) if gate is None else _gate_of_pools(mean, maximum, *gate)
            pooled = pooled.to(x.dtype)
        elif self.spatial is None and gate is not None:
            pooled = mlca_gate(self._multi_level_features(x), *gate, pool=self.pool)
        else:
            maps = self._multi_level_features(x)
            if gate is not None:
                maps = channel_gate(maps, *gate)
            if self.spatial is not None:
                branches = zip(self._branches(), maps, strict=True)
                maps = torch.stack([net.spatial_attention(c) for net, c in branches])
            flat = torch.relu(maps).flatten(3)
            pooled = flat.max(-1).values if self.pool == "max" else flat.mean(-1)
        return torch.stack([net.norm(v) for net, v in zip(self._branches(), pooled, strict=True)])

    def _branches(self) -> list[_Branch]:
        return cast(list[_Branch], list(self.nets))

    def _uses_pools(self, x: Tensor) -> bool:
        """Whether the maps of the convolutions are left as soon as they are pooled."""
        if self.structured_backward is not None:
            return self.structured_backward
        possible = self.pool == "max" and self.spatial is None
        return possible and x.is_cpu and not torch.is_autocast_enabled(x.device.type)

    def _multi_level_features(self, x: Tensor) -> Tensor:
        """The maps of all levels and branches: [G, B, C, H, W]."""

        def convolve(level: Tensor, weight: Tensor) -> tuple[Tensor]:
            return (nn.functional.conv2d(level, weight, padding="same"),)

        # Wider convolutions fill a GPU; on the CPU concatenating the weights only costs time.
        return self._apply_levels(convolve, x, lambda *_: not x.is_cpu)[0]

    def _multi_level_pools(self, x: Tensor) -> tuple[Tensor, ...]:
        """Mean and maximum of what _multi_level_features returns: [G, B, C] each."""

        def pools(level: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
            return conv_mean_max(level, weight, structured_backward=self.structured_backward)

        def merge(level: Tensor, weight: Tensor) -> bool:
            """Laying out patches once for all branches is worth a copy of the weights."""
            rows = level.shape[0] * level.shape[2] * level.shape[3]
            return not x.is_cpu or (torch.is_grad_enabled() and rows > 4 * weight.shape[0])

        return self._apply_levels(pools, x, merge)

    def _apply_levels(
        self,
        function: Callable[[Tensor, Tensor], tuple[Tensor, ...]],
        x: Tensor,
        merge: Callable[[Tensor, Tensor], bool],
    ) -> tuple[Tensor, ...]:
        """function(slice of x, weight) -> tensors [B, O, ...], for all branches and levels.

        Where `merge` says so, a level's branches are one call with concatenated weights. Returns
        tensors [G, B, C, ...].
        """
        levels = []
        for j, level in enumerate(x.split(self.in_channels, dim=1)):
            weights = [net.conv.weight(j) for net in self._branches()]
            if merge(level, weights[0]):
                merged = function(level, torch.cat(weights))
                shape = (len(weights), self.out_channels[j])
                levels.append([t.unflatten(1, shape).transpose(0, 1) for t in merged])
            else:
                branches = zip(*(function(level, w) for w in weights), strict=True)
                levels.append([torch.stack(b) for b in branches])
        return tuple(torch.cat(parts, dim=2) for parts in zip(*levels, strict=True))

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
            f"branches={len(self.nets)}, pool={self.pool!r}, "
            f"channel_attention={self.channel_attention}, spatial={self.spatial!r}"
        )


def _gate_of_pools(
    mean: Tensor, maximum: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor
) -> Tensor:
    """What `mlca_gate` makes of the map's pools: max_p relu(scale * x_p) = scale * relu(max)."""
    with torch.autocast(mean.device.type, enabled=False):
        w1, b1, w2, b2 = (w.to(mean.dtype) for w in (w1, b1, w2, b2))
        bias = b1.unsqueeze(1)
        hidden = torch.relu(torch.baddbmm(bias, mean, w1.mT)) + torch.relu(
            torch.baddbmm(bias, maximum, w1.mT)
        )
        scale = torch.sigmoid(torch.baddbmm(2 * b2.unsqueeze(1), hidden, w2.mT))
        return scale * torch.relu(maximum)


class _Branch(nn.Module):
    """Parameters of one branch, under the names of the published checkpoints."""

    def __init__(
        self,
        in_channels: tuple[int, ...],
        out_channels: tuple[int, ...],
        reduction: int | None,
        kernel_size: int,
        spatial: str | None,
        lanet_drop: float,
    ) -> None:
        super().__init__()
        channels = sum(out_channels)
        self.conv = _LevelConvs(in_channels, out_channels, kernel_size)
        if reduction is not None:
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
