"""SwinFace: one Swin transformer for recognition, expression, age and 40 attributes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facekernels.nn import MLCA, SwinTransformer
from facekernels.nn.layers import init_transformer
from facekernels.systems.common.checkpoint import build_network, read_checkpoint
from facekernels.systems.swinface.labels import TASKS, chosen_groups, outputs
from facekernels.systems.swinface.predict import FaceAnalysis, predict

SYSTEM, FORMAT = "swinface", 1
RECOGNITION = "Recognition"

Outputs = dict[str, Tensor] | list[Tensor] | Tensor


class SwinFace(nn.Module):
    """Backbone, multi-level channel attention, task-specific subnets, output layers.

    The defaults are the published network without its layer that nothing reads (`unused_head`);
    smaller ones are made by the same arguments.

    Args:
        image_size: side of the images, pixels.
        patch_size: side of a patch, pixels.
        embed_dim: channels of the backbone's first stage.
        depths: blocks per stage of the backbone.
        num_heads: attention heads per stage.
        window_size: side of the attention windows.
        drop_path_rate: stochastic depth of the backbone's last block.
        embedding_dim: of the recognition embedding.
        level_channels: channels that each attention branch takes from each of the four maps; their
            sum is the feature size.
        tasks: names of the analysis tasks to answer; None for all 42. Without any there is only the
            embedding.
        feature: ``"all"`` maps (published), ``"global"``: the last stage's, or ``"local"``: those
            before it.
        channel_attention: the gate of the attention branches; False leaves it out.
        spatial_attention: None (published), ``"cbam"`` or ``"lanet"``.
        pool: ``"max"`` (published) or ``"avg"``, of the attention branches.
        dropout: of the task-specific subnets.
        output_type: ``"Dict"`` of task name to output, ``"List"`` in the order of `TASKS` with the
            embedding last, ``"Attribute"``: the list of the 40 attributes' logits, or the name of
            one task, or ``"Recognition"``.
        unused_head: keep the published checkpoints' layer that nothing reads.

    Shape:
        images ``[B, 3, S, S]`` RGB in [-1, 1]. Age ``[B, 1]`` in years; every attribute ``[B, 2]``
        logits, 0 no and 1 yes (Gender: 0 female, 1 male); Expression ``[B, 7]`` logits of surprise,
        fear, disgust, happy, sad, anger, neutral; Recognition ``[B, D]``, not normalised.

    Raises:
        ValueError: an argument or the images' shape does not fit.

    Source: Qin et al., SwinFace, arXiv 2308.11509; order of layers and initialisation of the
    released code, whose checkpoints fit (`load_published`).
    """

    def __init__(
        self,
        image_size: int = 112,
        patch_size: int = 2,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        drop_path_rate: float = 0.1,
        embedding_dim: int = 512,
        level_channels: Sequence[int] = (47, 93, 186, 186),
        tasks: Sequence[str] | None = None,
        feature: str = "all",
        channel_attention: bool = True,
        spatial_attention: str | None = None,
        pool: str = "max",
        dropout: float = 0.5,
        output_type: str = "Dict",
        unused_head: bool = False,
    ) -> None:
        super().__init__()
        if feature not in _LEVELS:
            raise ValueError(f"feature must be one of {', '.join(_LEVELS)}, got {feature!r}")
        chosen = TASKS if tasks is None else tuple(tasks)
        groups = chosen_groups(chosen)
        self.settings: dict[str, Any] = {
            "image_size": image_size, "patch_size": patch_size, "embed_dim": embed_dim,
            "depths": list(depths), "num_heads": list(num_heads), "window_size": window_size,
            "drop_path_rate": drop_path_rate, "embedding_dim": embedding_dim,
            "level_channels": list(level_channels), "tasks": list(chosen), "feature": feature,
            "channel_attention": channel_attention, "spatial_attention": spatial_attention,
            "pool": pool, "dropout": dropout, "unused_head": unused_head,
        }  # fmt: skip
        self.image_size = image_size
        self.tasks = tuple(t for t in TASKS if t in chosen)
        self.levels = _LEVELS[feature]
        self.backbone = SwinTransformer(
            image_size, patch_size, 3, embed_dim, depths, num_heads, window_size,
            drop_path_rate=drop_path_rate, embedding_dim=embedding_dim, unused_head=unused_head,
        )  # fmt: skip
        if groups:
            stages = len(depths)
            maps = [embed_dim * 2 ** min(i + 1, stages - 1) for i in range(stages)]
            self.fam = MLCA(
                maps[self.levels], tuple(level_channels)[self.levels], len(groups), pool=pool,
                channel_attention=channel_attention, spatial=spatial_attention,
            )  # fmt: skip
            self.fam.apply(init_transformer)
            width = sum(self.fam.out_channels)
            self.tss = FaceAnalysisSubnets(len(groups), width, dropout)
            self.om = OutputModule(groups, width)
        self.set_output_type(output_type)

    def set_output_type(self, output_type: str) -> None:
        """Choose what `forward` returns: Dict, List, Attribute, Recognition or a task's name."""
        known = ("Dict", "List", "Attribute", RECOGNITION, *self.tasks)
        if output_type not in known:
            raise ValueError(f"output_type must be one of {', '.join(known)}, got {output_type!r}")
        self.output_type = output_type

    def forward(self, images: Tensor) -> Outputs:
        if images.ndim != 4 or images.shape[1] != 3:
            size = self.image_size
            raise ValueError(
                f"images must be [B, 3, {size}, {size}], got shape {tuple(images.shape)}"
            )
        taps = self.backbone.forward_taps(images)
        answers = self.analyse(taps) if self._needs_analysis() else {}
        if self.output_type in answers:
            return answers[self.output_type]
        if self.output_type == "Attribute":
            return [answers[t] for t in self.tasks if t not in ("Age", "Expression")]
        embedding = self.backbone.embed(taps[-1])
        if self.output_type == RECOGNITION:
            return embedding
        if self.output_type == "List":
            return [*answers.values(), embedding]
        return {**answers, RECOGNITION: embedding}

    def analyse(self, taps: Sequence[Tensor]) -> dict[str, Tensor]:
        """The analysis tasks' outputs, in the order of `TASKS`, from the backbone's maps."""
        height, width = taps[-1].shape[2:]
        pooled = [F.adaptive_avg_pool2d(t, (height, width)) for t in taps]
        features = self.tss(self.fam(torch.cat(pooled[self.levels], 1)))
        found = self.om(features)
        return {task: found[task] for task in self.tasks}

    def _needs_analysis(self) -> bool:
        return bool(self.tasks) and self.output_type != RECOGNITION

    def predict(self, images: Tensor) -> list[FaceAnalysis]:
        """Named, readable answers for face crops: `facekernels.systems.swinface.predict`."""
        return predict(self, images)

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> SwinFace:
        """The network of a training's checkpoint, in evaluation mode.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, or of another system or format.
        """
        return build_network(cls, read_checkpoint(path), path, SYSTEM, FORMAT)


_LEVELS = {"all": slice(None), "global": slice(-1, None), "local": slice(None, -1)}


class FaceAnalysisSubnets(nn.Module):
    """One subnet per group of tasks: twice linear, ReLU, dropout. ``[G, B, F]`` to the same."""

    def __init__(self, groups: int, width: int = 512, dropout: float = 0.5) -> None:
        super().__init__()
        self.nets = nn.ModuleList(_Subnet(width, dropout) for _ in range(groups))
        self.apply(init_transformer)

    def forward(self, features: Tensor) -> Tensor:
        return torch.stack([net(f) for net, f in zip(self.nets, features, strict=True)])


class _Subnet(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout)]
        self.feature = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.feature(x)


class OutputModule(nn.Module):
    """One linear layer per task, on its group's feature.

    Shape:
        features ``[G, B, F]``; a dictionary of task name to ``[B, outputs(task)]``.
    """

    def __init__(self, groups: Sequence[Sequence[str]], width: int = 512) -> None:
        super().__init__()
        self.groups = [tuple(g) for g in groups]
        self.output_fcs = nn.ModuleList(
            nn.Linear(width, outputs(task)) for group in groups for task in group
        )
        self.apply(init_transformer)

    def layer(self, task: str) -> nn.Linear:
        """The layer that answers `task`."""
        tasks = [t for group in self.groups for t in group]
        return cast(nn.Linear, self.output_fcs[tasks.index(task)])

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        layers = iter(self.output_fcs)
        return {
            task: next(layers)(feature)
            for group, feature in zip(self.groups, features, strict=True)
            for task in group
        }
