"""Eyes, lids, lashes and brows."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from facekernels.data.faces.canvas import Canvas, Frame, Patch, column
from facekernels.data.faces.geometry import SIDES, Anatomy
from facekernels.data.faces.palette import Palette


class Opening(NamedTuple):
    """Of the lids, in the frame of the eye."""

    upper: Tensor
    """``[n]``: height of the upper lid above the centre."""
    lower: Tensor
    """``[n]``: depth of the lower lid."""


def opening(a: Anatomy, side: int) -> Opening:
    """How far the lids are apart."""
    m = partial(a.muscle, side=side)
    size = 1 + 0.13 * a.p.named("eye_size") + 0.35 * a.child
    narrow = 1 - 0.45 * a.has("Narrow Eyes")
    raised = 1 + 0.55 * m("AU5") - 0.3 * m("AU7") - 0.5 * m("AU43") - 0.2 * m("AU6")
    raised = raised - 0.15 * m("AU9") - 0.12 * a.old
    lifted = 1 + 0.2 * m("AU5") - 0.5 * m("AU7") - 0.65 * m("AU6") - 0.35 * m("AU9")
    return Opening(
        0.055 * size * narrow * raised.clamp(min=0.15),
        0.039 * size * narrow * lifted.clamp(min=0.15),
    )


def draw_eyes(canvas: Canvas, a: Anatomy, colours: Palette) -> None:
    """Both, with the skin around them, each in one patch."""
    for side in SIDES:
        frame = a.eyes[side]
        patch = canvas.patch(frame, (-0.21, 0.23), (-0.18, 0.2))
        _socket(patch, frame, a, colours, side)
        _eyeball(patch, frame, a, colours, side)
        canvas.put(patch)


def _socket(patch: Patch, frame: Frame, a: Anatomy, colours: Palette, side: int) -> None:
    plane = patch.local(frame)
    patch.shade(plane.blob(0.0, -0.02, 0.2, 0.15), 0.88)
    makeup = a.has("Heavy Makeup")
    if a.any("Heavy Makeup"):
        lid = plane.ellipse(0.01, -0.045, a.eye_width * 1.25, 0.085)
        shadow = colours.skin * 0.35 + colours.skin.new_tensor([0.22, 0.1, 0.30])
        patch.paint(lid * column(makeup * 0.75), shadow)
    if a.any("Bags Under Eyes"):
        bags = a.has("Bags Under Eyes")
        bag = plane.blob(0.0, 0.085, 0.13, 0.075)
        patch.paint(
            bag * column(bags * 0.7), colours.skin * colours.skin.new_tensor([0.6, 0.5, 0.62])
        )
        fold = plane.arc(0.0, 0.12, 0.1, -0.035, 0.007)
        patch.paint(fold * column(bags * 0.8), colours.line)
    # Crow's feet: with age, and while the cheeks are raised.
    feet = (a.old * 0.7 + a.muscle("AU6", side) * (0.25 + 0.4 * a.old)).clamp(0, 1)
    for bend, v in ((0.05, -0.005), (-0.05, 0.04)):
        line = plane.arc(a.eye_width + 0.065, v, 0.045, bend, 0.006)
        patch.paint(line * column(feet), colours.line)


def _eyeball(patch: Patch, frame: Frame, a: Anatomy, colours: Palette, side: int) -> None:
    plane = patch.local(frame)
    lids = opening(a, side)
    width = a.eye_width
    x = plane.u / column(width)
    # Lids are parabolas; the lower one is flatter towards the inner corner.
    arch = 1 - x * x
    upper = arch * column(-lids.upper)
    lower = arch * column(lids.lower)
    inside = plane.inside(torch.maximum(upper - plane.v, plane.v - lower))
    inside = inside * plane.inside(plane.u.abs() - column(width))
    white = colours.skin.new_tensor([0.97, 0.96, 0.95]).expand_as(colours.skin)
    patch.paint(inside, white)
    iris = plane.ellipse(0.0, 0.0, a.iris, a.iris) * inside
    patch.paint(iris, colours.iris * 0.55)
    patch.paint(plane.ellipse(0.0, 0.0, a.iris * 0.82, a.iris * 0.82) * inside, colours.iris)
    patch.paint(plane.ellipse(0.0, 0.0, a.iris * 0.42, a.iris * 0.42) * inside, colours.iris * 0.08)
    glint = plane.ellipse(0.0, -0.5 * a.iris, a.iris * 0.22, a.iris * 0.18)
    patch.paint(glint * inside * 0.9, white)

    ends = plane.inside(plane.u.abs() - column(width * 1.06))
    makeup = a.has("Heavy Makeup")
    lash = 0.009 + 0.004 * a.female + 0.009 * makeup
    edge = plane.line(plane.v - upper + column(lash * 0.5), lash) * ends
    dark = colours.skin * (0.22 - 0.17 * makeup)[:, None]
    patch.paint(edge, dark)
    if a.any("Heavy Makeup"):
        wing = plane.arc(width * 1.2, -0.025, 0.035, -0.02, 0.009)
        patch.paint(wing * column(makeup), dark)
    rim = plane.line(plane.v - lower, 0.005) * ends
    patch.paint(rim * 0.6, colours.line)
    # The crease of the lid; it comes down with age.
    crease = plane.line(plane.v - upper * 1.15 + column(0.028 - 0.012 * a.old), 0.005)
    patch.paint(crease * ends * 0.55, colours.line)


def draw_brows(canvas: Canvas, a: Anatomy, colours: Palette) -> None:
    """Inner and outer ends move on their own: raised by AU1 and AU2, lowered by AU4."""
    for side in SIDES:
        patch = canvas.patch(a.brows[side], (-0.15, 0.15), (-0.3, 0.27))
        _brow(patch, a, colours, side)
        canvas.put(patch)


def _brow(patch: Patch, a: Anatomy, colours: Palette, side: int) -> None:
    plane = patch.local(a.brows[side])
    half, inner, outer, arch = brow_curve(a, side)
    x = plane.u / column(half)
    curve = _brow_height(x, column(inner), column(outer), column(arch))
    s, bushy, makeup = a.p.named, a.has("Bushy Eyebrows"), a.has("Heavy Makeup")
    thick = 0.020 * (1 + 0.3 * s("brow_thickness") + 0.3 * a.male + 1.5 * bushy - 0.2 * a.child)
    body = (1 - (x + 1) * (x + 1) * 0.17) * column(thick)
    mask = plane.line(plane.v - curve, body) * plane.inside(plane.u.abs() - column(half))
    strength = 0.75 + 0.2 * bushy + 0.1 * makeup
    patch.paint(mask * column(strength.clamp(max=1)), colours.brow)


def brow_curve(a: Anatomy, side: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Half-length, and height (negative: up) of the inner end, the outer end and the arch."""
    s, m = a.p.named, partial(a.muscle, side=side)
    half = 0.124 * (1 + 0.08 * s("brow_length"))
    slope = 0.008 * s("brow_slope")
    lowered = 0.5 * m("AU4") + 0.25 * m("AU9")
    inner = 0.012 + slope - 0.095 * m("AU1") + 0.15 * lowered
    outer = 0.012 - slope - 0.08 * m("AU2") + 0.025 * lowered
    arch = -0.016 - 0.008 * s("brow_arch") - 0.045 * a.has("Arched Eyebrows") - 0.02 * m("AU2")
    return half, inner, outer, arch


def _brow_height(x: Tensor, inner: Tensor, outer: Tensor, arch: Tensor) -> Tensor:
    """Height at x: -1 is the inner, 1 the outer end."""
    share = (x + 1) * 0.5
    return inner + (outer - inner) * share + arch * (1 - x * x)


def brow_point(a: Anatomy, side: int, x: float) -> tuple[Tensor, Tensor]:
    """Image coordinates of a point of the brow: x is -1 at its inner, 1 at its outer end."""
    half, inner, outer, arch = brow_curve(a, side)
    at = half.new_tensor(x)
    return a.brows[side].place(half * x, _brow_height(at, inner, outer, arch))
