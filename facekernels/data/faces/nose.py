"""The nose, and the lines of age and muscles between and above the eyes."""

from __future__ import annotations

import torch

from facekernels.data.faces.canvas import Canvas, column
from facekernels.data.faces.geometry import SIDES, Anatomy
from facekernels.data.faces.palette import Palette


def draw_nose(canvas: Canvas, a: Anatomy, colours: Palette) -> None:
    """Bridge, wings, nostrils and tip; the bridge leans to where its root is seen."""
    frame = a.nose
    patch = canvas.patch(frame, (-0.26, 0.26), (-0.34, 0.12))
    plane = patch.local(frame)
    root = a.pose.frame(torch.zeros_like(a.nose_y), a.eye_y, 0.03)
    det = frame.ux * frame.vy - frame.uy * frame.vx
    dx, dy = root.x - frame.x, root.y - frame.y
    root_u = (dx * frame.vy - dy * frame.vx) / det
    root_v = (dy * frame.ux - dx * frame.uy) / det
    up = (plane.v / column(root_v)).clamp_(0, 1)
    u = plane.u - up * column(root_u)

    width, pointy, big = a.nose_width, a.has("Pointy Nose"), a.has("Big Nose")
    ridge = (1 - up * 0.45) * column(width * 0.72)
    beside = (u.abs() - ridge).abs_() / column(width * 0.6)
    flank = (1 - beside).clamp_(min=0) * plane.soft((plane.v - column(root_v)).neg(), 0.05)
    flank = flank * plane.soft(plane.v - 0.02, 0.05)
    strength = 0.22 + 0.06 * a.p.named("nose_bridge") + 0.1 * pointy
    patch.paint(flank * column(strength), colours.line)

    patch.shade(plane.blob(0.0, 0.035, width * 1.5, 0.07), 0.85)
    wing = 0.028 + 0.006 * big
    flare = 1 + 0.14 * a.mean("AU9") + 0.06 * a.mean("AU10")
    for side in SIDES:
        ala = plane.ellipse(width * side * 0.68 * flare, 0.012, width * 0.4, wing + 0.012)
        patch.paint(ala, colours.skin * 0.84)
    tip = plane.ellipse(0.0, 0.0, width * (0.62 - 0.12 * pointy), 0.046 + 0.012 * big)
    patch.paint(tip, colours.skin * 0.97)
    patch.paint(plane.blob(0.0, -0.015, width * 0.45, 0.05) * 0.45, colours.skin * 0.4 + 0.6)
    for side in SIDES:
        hole = plane.ellipse(width * side * 0.45 * flare, 0.038, width * 0.22, 0.013 + 0.003 * big)
        patch.paint(hole * 0.85, colours.skin * 0.25)
    if a.any("Pointy Nose"):
        low = (plane.v - 0.02) * 0.6
        point = plane.inside(torch.maximum(u.abs() - column(width * 0.4) + low, plane.v - 0.075))
        point = point * plane.inside(0.02 - plane.v)
        patch.paint(point * column(pointy), colours.skin * 0.9)
    # Wrinkles across the bridge: AU9.
    wrinkle = a.mean("AU9").clamp(0, 1)
    for v in (-0.13, -0.175):
        line = plane.arc(column(root_u * 0.6), v, 0.05, 0.02, 0.007)
        patch.paint(line * column(wrinkle * 0.9), colours.line)
    canvas.put(patch)


def draw_forehead(canvas: Canvas, a: Anatomy, colours: Palette) -> None:
    """Lines across (age, raised brows) and between the brows (AU4)."""
    zero = torch.zeros_like(a.brow_y)
    frame = a.pose.frame(zero, a.brow_y, 0.02)
    patch = canvas.patch(frame, (-0.3, 0.3), (-0.25, 0.14))
    plane = patch.local(frame)
    raised = (a.mean("AU1") + a.mean("AU2")) * (0.22 + 0.25 * a.old)
    across = (a.old * 0.75 + raised).clamp(0, 1)
    for v, length in ((-0.085, 0.2), (-0.13, 0.22), (-0.175, 0.17)):
        patch.paint(plane.arc(0.0, v, length, 0.015, 0.006) * column(across * 0.75), colours.line)
    knit = a.mean("AU4") * (0.75 + 0.25 * a.old) + 0.25 * a.old
    for side in SIDES:
        lean = (plane.u * side - 0.022) - (plane.v - 0.02) * 0.12
        frown = plane.line(lean, 0.007) * plane.inside((plane.v - 0.015).abs_() - 0.05)
        patch.paint(frown * column(knit.clamp(0, 1) * 0.85), colours.line)
    canvas.put(patch)
