"""Lips, teeth, chin and the folds around the mouth."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from facekernels.data.faces.canvas import Canvas, Frame, Patch, Plane, column
from facekernels.data.faces.geometry import SIDES, Anatomy
from facekernels.data.faces.palette import Palette


class Lips(NamedTuple):
    """Sizes in the frame of the mouth, ``[n]`` each."""

    half: Tensor
    """Half-width."""
    left: Tensor
    """Height of the image-left corner, negative: up."""
    right: Tensor
    up: Tensor
    """Height of the opening above the line between the lips."""
    down: Tensor
    """Depth of the opening below it."""
    upper: Tensor
    """Thickness of the upper lip."""
    lower: Tensor
    """Thickness of the lower lip."""
    middle: Tensor
    """Height of the middle of that line."""


def lips(a: Anatomy) -> Lips:
    """With all muscles applied."""
    s, m = a.p.named, a.mean

    def corner(side: int) -> Tensor:
        raised = a.muscle("AU12", side) * -0.1 + a.muscle("AU15", side) * 0.085
        return raised + a.muscle("AU20", side) * 0.02 + 0.006 * a.old

    half = a.mouth_width * (
        1 + 0.3 * m("AU12") + 0.38 * m("AU20") - 0.2 * m("AU23") - 0.28 * m("AU26")
        - 0.06 * m("AU15") - 0.1 * m("AU17")
    ).clamp(0.5, 1.7)  # fmt: skip
    thin = (1 - 0.6 * m("AU23") - 0.22 * m("AU12") - 0.2 * m("AU20") - 0.15 * m("AU26")).clamp(
        0.2, 1
    )
    thick = thin * (1 + 0.9 * a.has("Big Lips") - 0.25 * a.old - 0.15 * a.male)
    parted = (m("AU25") * 0.032 + m("AU12") * m("AU25") * 0.012).clamp(0, 0.08)
    return Lips(
        half,
        corner(-1),
        corner(1),
        parted + 0.03 * m("AU26") + 0.03 * m("AU10") * (1 - 0.5 * m("AU17")).clamp(min=0),
        parted * 0.8 + 0.115 * m("AU26"),
        0.034 * thick * (1 + 0.25 * s("upper_lip")),
        0.047 * thick * (1 + 0.25 * s("lower_lip")),
        -0.03 * m("AU17") - 0.02 * m("AU10") + 0.016 * m("AU12"),
    )


def draw_mouth(canvas: Canvas, a: Anatomy, colours: Palette) -> None:
    """The mouth and everything near it, in one patch."""
    frame = a.mouth
    patch = canvas.patch(frame, (-0.36, 0.36), (-0.26, 0.33))
    plane = patch.local(frame)
    shape = lips(a)
    _folds(patch, plane, a, colours, shape)
    _chin(patch, plane, a, colours)
    _lips(patch, plane, a, colours, shape)
    canvas.put(patch)


def curves(u: Tensor, shape: Lips) -> tuple[Tensor, Tensor]:
    """At each u: the line between the lips, and 1 - (u / half)^2."""
    x = u / column(shape.half)
    x2 = x * x
    mean, tilt = (shape.left + shape.right) * 0.5, (shape.right - shape.left) * 0.5
    corner = x2 * column(mean) + x2 * x * column(tilt)
    arch = 1 - x2
    return corner + arch * column(shape.middle), arch


def _lips(patch: Patch, plane: Plane, a: Anatomy, colours: Palette, shape: Lips) -> None:
    line, arch = curves(plane.u, shape)
    roof = line - arch * column(shape.up)
    floor = line + arch * column(shape.down)
    # The bow: a dip in the middle of the upper lip.
    x = (plane.u / column(shape.half)).abs_()
    bow = (1 - x * 4).clamp_(min=0) * column((0.3 + 0.2 * a.p.named("cupid_bow")) * shape.upper)
    # Lips end in points.
    full = arch * (x * 0.3 + 1)
    top = roof - full * column(shape.upper) + bow
    bottom = floor + arch * column(shape.lower)
    across = plane.inside(plane.u.abs() - column(shape.half))

    upper = plane.inside(torch.maximum(top - plane.v, plane.v - line)) * across
    lower = plane.inside(torch.maximum(line - plane.v, plane.v - bottom)) * across
    patch.paint(upper, colours.lips * 0.9)
    patch.paint(lower, colours.lips)
    gloss = plane.blob(0.0, shape.down + shape.middle + shape.lower * 0.5, 0.08, 0.022)
    patch.paint(gloss * lower * 0.3, colours.lips * 0.5 + 0.5)

    # Parted lips show what is behind them; the opening does not reach into the corners.
    gap = (shape.up + shape.down).clamp(max=0.02) * 50
    inner = plane.inside(torch.maximum(roof - plane.v, plane.v - floor)) * across
    inner = inner * column(gap)
    dark = colours.skin.new_tensor([0.22, 0.05, 0.06]).expand_as(colours.skin)
    patch.paint(inner, dark)
    tongue = plane.ellipse(0.0, shape.down + 0.012, shape.half * 0.55, shape.down * 0.5 + 0.004)
    patch.paint(inner * tongue, colours.skin.new_tensor([0.72, 0.3, 0.3]).expand_as(dark))
    teeth = plane.inside(plane.v - roof - column((shape.up + shape.down * 0.3).clamp(max=0.045)))
    white = colours.skin.new_tensor([0.96, 0.95, 0.92]).expand_as(dark)
    patch.paint(inner * teeth * plane.inside(plane.u.abs() - column(shape.half * 0.82)), white)

    closed = plane.line(plane.v - line, 0.008) * plane.inside(
        plane.u.abs() - column(shape.half * 1.04)
    )
    patch.paint(closed * column(1 - gap * 0.8), colours.lips * 0.42)


def _folds(patch: Patch, plane: Plane, a: Anatomy, colours: Palette, shape: Lips) -> None:
    """From the nose past the corners of the mouth: with age, smiling, disgust."""
    for side in SIDES:
        pull = a.muscle("AU12", side) * 0.55 + a.muscle("AU10", side) * 0.6
        depth = (a.old * 0.75 + pull + a.muscle("AU9", side) * 0.4).clamp(0, 1)
        v = plane.v + 0.09
        x = plane.u * side - column(0.13 + 0.035 * a.muscle("AU12", side) + 0.1 * a.nose_width)
        bend = v * 0.55 - v * v * 1.6
        fold = plane.line((x - bend) * 0.87, 0.007) * plane.inside(v.abs() - 0.105)
        patch.paint(fold * column(depth * 0.8), colours.line)
        # Lines that run from the corners down, with age and sadness.
        sag = (a.old * 0.7 + a.muscle("AU15", side) * 0.5).clamp(0, 1)
        corner = plane.u * side - column(shape.half + 0.018)
        marionette = plane.line(corner, 0.006) * plane.inside((plane.v - 0.07).abs_() - 0.05)
        patch.paint(marionette * column(sag * 0.7), colours.line)


def _chin(patch: Patch, plane: Plane, a: Anatomy, colours: Palette) -> None:
    below = 0.1 + 0.115 * a.mean("AU26")
    patch.shade(plane.blob(0.0, below - 0.01, 0.13, 0.05), 0.9)
    boss = a.mean("AU17").clamp(0, 1)
    patch.paint(plane.arc(0.0, 0.085, 0.07, 0.03, 0.008) * column(boss * 0.8), colours.line)


def mouth_points(a: Anatomy) -> dict[str, tuple[Tensor, Tensor]]:
    """Image coordinates of corners and lip edges."""
    frame: Frame = a.mouth
    shape = lips(a)
    bow = (0.3 + 0.2 * a.p.named("cupid_bow")) * shape.upper
    return {
        "mouth_left": frame.place(-shape.half, shape.left),
        "mouth_right": frame.place(shape.half, shape.right),
        "lip_top": frame.place(0.0, shape.middle - shape.up - shape.upper + bow),
        "lip_bottom": frame.place(0.0, shape.middle + shape.down + shape.lower),
    }
