"""What the decoders return."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Keypoints(NamedTuple):
    """One keypoint per heatmap."""

    xy: Tensor
    """``[B, K, 2]``, x then y, in heatmap pixels (0 is the centre of the first)."""
    score: Tensor
    """``[B, K]``."""
    valid: Tensor
    """``[B, K]`` bool: whether there is a keypoint."""
