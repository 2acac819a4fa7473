"""Named points of the face, computed from what is drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from facekernels.data.faces.eyes import brow_point, opening
from facekernels.data.faces.geometry import SIDES, Anatomy
from facekernels.data.faces.head import taper
from facekernels.data.faces.mouth import mouth_points

LANDMARKS: tuple[str, ...] = (
    "eye_left", "eye_right", "nose_tip", "mouth_left", "mouth_right",
    "brow_left_outer", "brow_left_middle", "brow_left_inner",
    "brow_right_inner", "brow_right_middle", "brow_right_outer",
    "eye_left_outer", "eye_left_top", "eye_left_inner", "eye_left_bottom",
    "eye_right_inner", "eye_right_top", "eye_right_outer", "eye_right_bottom",
    "nose_bridge", "nose_left", "nose_right",
    "lip_top", "lip_bottom",
    "jaw_left", "chin", "jaw_right", "ear_left", "ear_right",
)  # fmt: skip
"""Left and right are those of the image. The first five are ArcFace's, in its order."""

FIVE_POINTS: tuple[int, ...] = (0, 1, 2, 3, 4)
"""Columns of the five points of ArcFace's alignment."""


def landmarks(a: Anatomy, size: int) -> tuple[Tensor, Tensor]:
    """Pixel coordinates ``[n, L, 2]`` (x, y; the centre of the first pixel is 0) and whether the
    surface there faces the viewer, ``[n, L]``.
    """
    pose, points = a.pose, mouth_points(a)
    zero = torch.zeros_like(a.eye_x)
    facing: dict[str, Tensor] = {}
    for side in SIDES:
        name = "left" if side < 0 else "right"
        frame, lids = a.eyes[side], opening(a, side)
        points[f"eye_{name}"] = (frame.x, frame.y)
        points[f"eye_{name}_outer"] = frame.place(a.eye_width, 0.0)
        points[f"eye_{name}_inner"] = frame.place(-a.eye_width, 0.0)
        points[f"eye_{name}_top"] = frame.place(0.0, -lids.upper)
        points[f"eye_{name}_bottom"] = frame.place(0.0, lids.lower)
        for x, part in ((-1.0, "inner"), (0.0, "middle"), (1.0, "outer")):
            points[f"brow_{name}_{part}"] = brow_point(a, side, x)
        points[f"nose_{name}"] = a.nose.place(a.nose_width * side, 0.012)
        ear = (a.half_width * side, zero + 0.02, -0.06)
        points[f"ear_{name}"] = pose.project(*ear)
        points[f"jaw_{name}"] = _jaw(a, side)
        eye = pose.facing(a.eye_x * side, a.eye_y)
        mouth = pose.facing(a.mouth_width * side, a.mouth_y)
        facing |= {f"eye_{name}": eye, f"brow_{name}": eye, f"mouth_{name}": mouth}
        facing[f"ear_{name}"] = -(pose.sin_yaw * side) + 0.3
        facing[f"jaw_{name}"] = zero + 1
    nose = a.nose
    points["nose_tip"] = (nose.x, nose.y)
    points["nose_bridge"] = pose.project(zero, a.eye_y, pose.surface(zero, a.eye_y) + 0.03)
    points["chin"] = pose.project(zero, a.bottom, 0.28)
    xy = torch.stack([torch.stack(points[name], 1) for name in LANDMARKS], 1)
    front = zero + 1
    seen = [next((f for k, f in facing.items() if name.startswith(k)), front) for name in LANDMARKS]
    return (xy + 1) * (size / 2) - 0.5, torch.stack(seen, 1) > 0.1


def _jaw(a: Anatomy, side: int) -> tuple[Tensor, Tensor]:
    """On the outline of the head at 60 percent of the way down to the chin."""
    head = a.pose.head()
    chin_u, chin_v = a.pose.seen(torch.zeros_like(a.bottom), a.bottom, 0.28)
    below = torch.full_like(chin_v, 0.6)
    square = below * below
    bulge = (square * square - square) * a.square
    across = (1 - square - bulge).clamp(min=0).sqrt()
    u = across * taper(a, below, square) * side + square * chin_u
    return head.place(u, below * chin_v)
