"""Swin transformer with taps after every stage, under the public checkpoints' key names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facekernels.nn.layers import DropPath, init_transformer


class SwinTransformer(nn.Module):
    """The backbone of SwinFace and of MEK's transformer: Swin-T on 112 pixels with patches of 2.

    Args:
        image_size: side of the square images, pixels. Every stage's map must be even where it is
            merged, and a multiple of the window where it is larger than the window.
        patch_size: side of a patch: 2 (SwinFace) or 4 (Swin at 224 pixels).
        in_channels: of the images.
        embed_dim: channels of the first stage; every merging doubles them.
        depths: blocks per stage.
        num_heads: attention heads per stage.
        window_size: side of the attention windows. A map that is not larger is one window.
        mlp_ratio: hidden over outer channels of the blocks' MLPs.
        drop_path_rate: stochastic depth of the last block; it rises linearly from 0.
        embedding_dim: D of the recognition head; 0 leaves the head out.
        unused_head: keep the linear layer ``head`` that the published checkpoints hold and nothing
            reads.

    Attributes:
        num_features: channels of the last stage.

    Shape:
        images ``[B, in_channels, S, S]``, in [-1, 1] for the published weights; embedding
        ``[B, D]``, not normalised.

    Attention is computed in float32 under autocast, as published.

    Raises:
        ValueError: an argument or the images' shape does not fit.

    Source: Liu et al., Swin Transformer, ICCV 2021; patch 2, taps and the head (Linear, BatchNorm,
    Linear, BatchNorm) of SwinFace, arXiv 2308.11509. Keys are those of its released code.
    """

    def __init__(
        self,
        image_size: int = 112,
        patch_size: int = 2,
        in_channels: int = 3,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.1,
        embedding_dim: int = 512,
        unused_head: bool = False,
    ) -> None:
        super().__init__()
        stages = len(depths)
        if stages == 0 or len(num_heads) != stages:
            raise ValueError(
                f"depths and num_heads must be of equal length >= 1, got {tuple(depths)} and "
                f"{tuple(num_heads)}"
            )
        if image_size % patch_size:
            raise ValueError(
                f"image_size must be a multiple of patch_size {patch_size}, got {image_size}"
            )
        self.image_size = image_size
        self.num_features = embed_dim * 2 ** (stages - 1)
        self.patch_embed = _PatchEmbed(patch_size, in_channels, embed_dim)
        rates = torch.linspace(0, drop_path_rate, sum(depths)).tolist()
        resolution, dim = image_size // patch_size, embed_dim
        self.layers = nn.ModuleList()
        for i, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
            last = i == stages - 1
            stage_rates, rates = rates[:depth], rates[depth:]
            self.layers.append(
                _Stage(dim, resolution, heads, window_size, mlp_ratio, stage_rates, merge=not last)
            )
            if not last:
                resolution, dim = resolution // 2, dim * 2
        self.norm = nn.LayerNorm(dim)
        if unused_head:
            self.head = nn.Linear(dim, embedding_dim)
        if embedding_dim:
            self.feature = nn.Sequential(
                nn.Linear(dim, dim, bias=False),
                nn.BatchNorm1d(dim, eps=2e-5),
                nn.Linear(dim, embedding_dim, bias=False),
                nn.BatchNorm1d(embedding_dim, eps=2e-5),
            )
        self.apply(init_transformer)

    def forward_taps(self, images: Tensor) -> tuple[Tensor, ...]:
        """The map after each stage (and its merging), ``[B, C_i, h_i, w_i]``; the last one is the
        last stage's, before the final norm.
        """
        size = self.image_size
        if images.ndim != 4 or images.shape[2:] != (size, size):
            raise ValueError(
                f"images must be [B, C, {size}, {size}], got shape {tuple(images.shape)}"
            )
        x = self.patch_embed(images)
        taps = []
        for layer in self.layers:
            x = layer(x)
            taps.append(x.permute(0, 3, 1, 2))
        return tuple(taps)

    def forward_features(self, images: Tensor) -> Tensor:
        """``[B, num_features, h, w]``: the last stage, before the final norm."""
        return self.forward_taps(images)[-1]

    def embed(self, features: Tensor) -> Tensor:
        """``[B, D]`` recognition embedding of `forward_features`' result."""
        tokens = self.norm(features.permute(0, 2, 3, 1))
        return self.feature(tokens.mean((1, 2)))

    def forward(self, images: Tensor) -> Tensor:
        return self.embed(self.forward_features(images))


class _PatchEmbed(nn.Module):
    """Image ``[B, C, S, S]`` to tokens ``[B, h, w, dim]``."""

    def __init__(self, patch_size: int, in_channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, patch_size, patch_size)
        self.norm = nn.LayerNorm(dim)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


class _Stage(nn.Module):
    """Blocks that alternate between plain and shifted windows, then the merging, if any."""

    def __init__(
        self,
        dim: int,
        resolution: int,
        heads: int,
        window: int,
        mlp_ratio: float,
        drop_path: Sequence[float],
        merge: bool,
    ) -> None:
        super().__init__()
        if resolution > window and resolution % window:
            raise ValueError(
                f"image_size does not fit: a stage's map of {resolution} x {resolution} is not a "
                f"multiple of window_size {window}"
            )
        if merge and resolution % 2:
            raise ValueError(
                f"image_size does not fit: a stage's map of {resolution} x {resolution} cannot be "
                "halved"
            )
        self.blocks = nn.ModuleList(
            _Block(dim, resolution, heads, window, mlp_ratio, rate, shifted=bool(i % 2))
            for i, rate in enumerate(drop_path)
        )
        self.downsample = _Merge(dim) if merge else None

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class _Merge(nn.Module):
    """``[B, h, w, C]`` to ``[B, h/2, w/2, 2 C]``: each 2 x 2 patch becomes one token."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, dim = x.shape
        # Column by column within a patch: the order of the published weights.
        patches = x.view(batch, height // 2, 2, width // 2, 2, dim).permute(0, 1, 3, 4, 2, 5)
        return self.reduction(self.norm(patches.flatten(3)))


class _Block(nn.Module):
    """Window attention and MLP, both residual."""

    def __init__(
        self,
        dim: int,
        resolution: int,
        heads: int,
        window: int,
        mlp_ratio: float,
        drop_path: float,
        shifted: bool,
    ) -> None:
        super().__init__()
        self.window = min(window, resolution)
        self.shift = window // 2 if shifted and resolution > window else 0
        self.norm1 = nn.LayerNorm(dim)
        self.attn = _WindowAttention(dim, self.window, heads)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = _Mlp(dim, int(dim * mlp_ratio))
        self.attn_mask: Tensor | None
        mask = _shift_mask(resolution, self.window, self.shift) if self.shift else None
        self.register_buffer("attn_mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self._attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor) -> Tensor:
        """Attention within windows of the (shifted) map ``[B, h, w, C]``."""
        batch, height, width, dim = x.shape
        side, shift = self.window, self.shift
        if shift:
            x = x.roll((-shift, -shift), (1, 2))
        x = x.view(batch, height // side, side, width // side, side, dim)
        windows = x.transpose(2, 3).reshape(batch, -1, side * side, dim)
        x = self.attn(windows, self.attn_mask)
        x = x.view(batch, height // side, width // side, side, side, dim).transpose(2, 3)
        x = x.reshape(batch, height, width, dim)
        return x.roll((shift, shift), (1, 2)) if shift else x


class _WindowAttention(nn.Module):
    """Multi-head attention with a learned bias per relative position."""

    def __init__(self, dim: int, window: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"num_heads must divide the stage's {dim} channels, got {heads}")
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.relative_position_index: Tensor
        self.register_buffer("relative_position_index", _relative_positions(window))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        """Windows ``[B, W, N, C]``; `mask` ``[W, N, N]`` is added to every head's logits."""
        qkv = self.qkv(windows).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv.permute(3, 0, 1, 4, 2, 5)
        with torch.autocast(windows.device.type, enabled=False):
            bias = self.relative_position_bias_table[self.relative_position_index]
            bias = bias.permute(2, 0, 1)
            if mask is not None:
                bias = bias + mask[:, None]
            if query.dtype != torch.float64:
                query, key, value = query.float(), key.float(), value.float()
            mixed = F.scaled_dot_product_attention(query, key, value, bias.to(query.dtype))
        return self.proj(mixed.transpose(2, 3).reshape(windows.shape).to(windows.dtype))


class _Mlp(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


def _relative_positions(window: int) -> Tensor:
    """``[N, N]`` row of the bias table for every pair of tokens of a window."""
    rows, columns = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    position = torch.stack([rows.flatten(), columns.flatten()])
    down, right = position[:, :, None] - position[:, None, :] + window - 1
    return down * (2 * window - 1) + right


def _shift_mask(resolution: int, window: int, shift: int) -> Tensor:
    """``[W, N, N]``: -100 between tokens that only the cyclic shift has made neighbours."""
    position = torch.arange(resolution)
    part = (position >= resolution - window).long() + (position >= resolution - shift).long()
    region = 3 * part[:, None] + part
    count = resolution // window
    windows = region.view(count, window, count, window).transpose(1, 2).reshape(count**2, -1)
    return (windows[:, :, None] != windows[:, None, :]).float() * -100
