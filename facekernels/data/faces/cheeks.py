"""Cheeks: rosy, high, raised; blemishes, freckles and the mole."""

from __future__ import annotations

import torch

from facekernels.data.faces.attributes import SMOOTH
from facekernels.data.faces.canvas import Canvas, Patch, Plane, column
from facekernels.data.faces.geometry import SIDES, Anatomy
from facekernels.data.faces.palette import Palette

_SPOTS = (
    (-0.05, -0.03, 0.012), (0.03, -0.055, 0.015), (0.06, 0.02, 0.012), (-0.01, 0.03, 0.017),
    (-0.06, 0.05, 0.012), (0.045, 0.075, 0.014), (0.0, -0.01, 0.010), (0.02, 0.11, 0.013),
)  # fmt: skip


def draw_cheeks(canvas: Canvas, a: Anatomy, colours: Palette) -> None:
    """Below the eyes, each in one patch."""
    for side in SIDES:
        frame = a.pose.frame(a.half_width * 0.52 * side, a.nose_y + 0.03, 0.0, side)
        patch = canvas.patch(frame, (-0.23, 0.24), (-0.2, 0.24))
        plane = patch.local(frame)
        _colour(patch, plane, a, colours)
        _relief(patch, plane, a, colours, side)
        _skin(patch, plane, a, colours)
        canvas.put(patch)
    if bool((a.p.named("mole") > 0.3).any()):
        _mole(canvas, a, colours)


def _colour(patch: Patch, plane: Plane, a: Anatomy, colours: Palette) -> None:
    rosy = (0.7 * a.has("Rosy Cheeks") + 0.3 * a.has("Heavy Makeup") + 0.12 * a.child).clamp(
        max=0.8
    )
    red = colours.skin * 0.45 + colours.skin.new_tensor([0.50, 0.10, 0.14])
    patch.paint(plane.blob(0.0, 0.0, 0.17, 0.14) * column(rosy), red)


def _relief(patch: Patch, plane: Plane, a: Anatomy, colours: Palette, side: int) -> None:
    high = a.has("High Cheekbones")
    light = (0.12 + 0.3 * high + 0.25 * a.muscle("AU6", side)).clamp(0, 0.7)
    patch.paint(plane.blob(0.0, -0.07, 0.15, 0.06) * column(light), colours.skin * 0.55 + 0.45)
    if a.any("High Cheekbones"):
        hollow = (plane.v - 0.06) + plane.u * 0.55
        shade = (1 - (hollow / 0.055) * (hollow / 0.055)).clamp_(min=0)
        shade = shade * plane.blob(0.05, 0.05, 0.17, 0.17)
        patch.paint(shade * column(high * 0.42), colours.line)
    bulge = plane.arc(-0.02, -0.115, 0.09, -0.03, 0.006)
    patch.paint(bulge * column(a.muscle("AU6", side).clamp(0, 1) * 0.4), colours.line)


def _skin(patch: Patch, plane: Plane, a: Anatomy, colours: Palette) -> None:
    rough = a.p.roughness
    rough = (rough >= SMOOTH).float() * (0.4 + 0.5 * rough)
    spot = colours.skin * colours.skin.new_tensor([0.72, 0.5, 0.45])
    marks = torch.zeros_like(plane.u)
    for u, v, size in _SPOTS:
        marks = torch.maximum(marks, plane.blob(u, v, size * 2.0, size * 2.0))
    patch.paint(marks * column(rough), spot)


def _mole(canvas: Canvas, a: Anatomy, colours: Palette) -> None:
    """The one asymmetric property of a face at rest."""
    s = a.p.named
    frame = a.pose.frame(a.half_width * 0.6 * s("mole_u"), a.nose_y + 0.08 + 0.12 * s("mole_v"))
    patch = canvas.patch(frame, (-0.03, 0.03), (-0.03, 0.03))
    mask = patch.local(frame).ellipse(0.0, 0.0, 0.016, 0.016)
    patch.paint(mask * column((s("mole") > 0.3).float() * 0.9), colours.skin * 0.3)
    canvas.put(patch)
