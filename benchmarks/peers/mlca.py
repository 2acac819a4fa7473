"""MLCA's gate, and the module around it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def mlca_branch_loop(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """SwinFace as published: branch by branch, pooling modules, the scaled map is written."""
    branches = zip(x, w1, b1, w2, b2, strict=True)
    return torch.stack([_mlca_branch(*branch) for branch in branches])


def _mlca_branch(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    size = x.shape[-2:]
    attention = None
    for pool in (F.avg_pool2d, F.max_pool2d):
        pooled = pool(x, size).flatten(1)
        hidden = torch.relu(F.linear(pooled, w1, b1))
        logits = F.linear(hidden, w2, b2)
        attention = logits if attention is None else attention + logits
    scale = torch.sigmoid(attention)[:, :, None, None].expand_as(x)
    return F.max_pool2d(torch.relu(x * scale), size).flatten(1)


def mlca_module(module: Any, x: Tensor) -> Tensor:
    """nn.MLCA's parameters in SwinFace's order of work: four convolutions and a gate per branch."""
    outputs = []
    for net in module.nets:
        levels = zip(net.conv.convs, x.split(module.in_channels, 1), strict=True)
        features = torch.cat([conv(level) for conv, level in levels], 1)
        _, first, _, second = net.channel_attention.mlp
        gate = first.weight, first.bias, second.weight, second.bias
        outputs.append(net.norm(_mlca_branch(features, *gate)))
    return torch.stack(outputs)


def mlca_folded(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """All branches at once, with the algebra facekernels uses: no scaled map, one second layer."""
    mean, maximum = x.mean((-2, -1)), x.amax((-2, -1))
    bias = b1.unsqueeze(1)
    hidden = torch.relu(torch.baddbmm(bias, mean, w1.mT)) + torch.relu(
        torch.baddbmm(bias, maximum, w1.mT)
    )
    scale = torch.sigmoid(torch.baddbmm(2 * b2.unsqueeze(1), hidden, w2.mT))
    return scale * torch.relu(maximum)
