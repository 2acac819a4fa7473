"""Random rotations of features: similarities stay, directions lose their meaning."""

from __future__ import annotations

import torch
from torch import Tensor


def random_rotation(size: int) -> Tensor:
    """A uniformly random orthogonal matrix, from torch's generator."""
    q, r = torch.linalg.qr(torch.randn(size, size))
    rotation: Tensor = q * torch.sign(torch.diagonal(r))  # uniform by the signs
    return rotation
