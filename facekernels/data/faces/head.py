"""The head as a whole: its outline, ears, neck and shading."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from facekernels.data.faces.canvas import Canvas, Patch, Plane, column
from facekernels.data.faces.geometry import SIDES, Anatomy
from facekernels.data.faces.palette import Palette


class Head(NamedTuple):
    """The pixels in the frame of the head, with what several layers need."""

    plane: Plane
    chin: tuple[Tensor, Tensor]
    """``[n]`` each: place of the chin in the frame."""
    top: Tensor
    """``[n]``: height of the skull there, negative."""
    turned: tuple[Tensor, Tensor]
    """``[n]`` each: how far features on the forehead move when the head turns."""
    mask: Tensor
    """``[n, h, w]``: coverage of skull and face."""
    across: Tensor
    """``[n, h, w]``: -1 and 1 on the outline, left and right."""


def locate(patch: Patch, a: Anatomy) -> Head:
    """The head on the pixels of a patch."""
    plane = patch.local(a.pose.head())
    zero = torch.zeros_like(a.bottom)
    chin = a.pose.seen(zero, a.bottom, 0.28)
    top = a.pose.seen(zero, -a.top, -0.05)[1]
    turned = (a.pose.sin_yaw * 0.3, a.pose.sin_pitch * -0.3)

    below = (plane.v / column(chin[1])).clamp_(min=0)
    along = torch.maximum(below, plane.v / column(top))
    square = below * below
    width = taper(a, below, square)
    across = (plane.u - square.clamp(max=1).mul_(column(chin[0]))) / width
    q = along * along
    bulge = (square * square - square).mul_(column(a.square))
    p = across * across
    distance = p + q + bulge - 1
    slope = (p / (width * width) + q * 2.8).sqrt_().mul_(2).add_(1e-6)
    return Head(plane, chin, top, turned, plane.inside(distance / slope), across)


def taper(a: Anatomy, below: Tensor, square: Tensor) -> Tensor:
    """Half-width at a share `below` (its square given) of the way down to the chin."""
    shape = [column(x) if below.ndim == 3 else x for x in (a.half_width, a.taper, a.cheek)]
    half, narrow, cheek = shape
    full = below * (1 - below) * 4
    return (1 - square * narrow + full * cheek).clamp(0.25, 1.4) * half


def draw_neck(head: Head, patch: Patch, a: Anatomy, colours: Palette) -> None:
    """Neck, shoulders and clothes; they roll half as much as the head and do not turn."""
    neck = 0.24 + 0.05 * a.male - 0.04 * a.child + 0.03 * a.has("Chubby")
    shadow = colours.skin * 0.8
    plane = head.plane
    patch.paint(plane.box(0.0, 0.75, neck, 0.35), shadow)
    shoulders = plane.ellipse(0.0, 1.35, 0.85 + 0.1 * a.male - 0.15 * a.child, 0.52)
    patch.paint(shoulders, a.p.clothes)
    neckline = plane.ellipse(0.0, 0.78, neck * 1.02, 0.15 + 0.05 * a.female)
    patch.paint(neckline, shadow)


def draw_ears(canvas: Canvas, a: Anatomy, colours: Palette) -> None:
    """Behind the head, so that the far one disappears when the head turns."""
    frame = a.pose.head()
    size = 1 + 0.25 * a.p.named("ear_size")
    for side in SIDES:
        u, v = a.pose.seen(a.half_width * side, torch.full_like(size, 0.02), -0.06)
        ear = frame.moved(u, v)
        patch = canvas.patch(ear, (-0.1, 0.1), (-0.16, 0.16))
        plane = patch.local(ear)
        patch.paint(plane.ellipse(0.0, 0.0, 0.075 * size, 0.115 * size), colours.skin * 0.9)
        patch.paint(plane.ellipse(0.0, 0.0, 0.04 * size, 0.07 * size), colours.skin * 0.72)
        canvas.put(patch)


def draw_skin(head: Head, patch: Patch, a: Anatomy, colours: Palette) -> None:
    """The face, darker towards its outline; a double chin below."""
    if a.any("Double Chin"):
        u, v = head.chin
        fold = head.plane.ellipse(u, v - 0.02, a.half_width * 0.62, 0.13)
        patch.paint(fold * column(a.has("Double Chin")), colours.skin * 0.93)
        rim = head.plane.ellipse(u, v - 0.035, a.half_width * 0.6, 0.095)
        patch.paint(fold * rim * column(a.has("Double Chin")), colours.skin * 0.85)
    patch.paint(head.mask, colours.skin)
    if a.any("Double Chin"):
        u, v = head.chin
        line = head.plane.arc(u, v - 0.05, 0.2, -0.04, 0.014)
        patch.paint(line * column(a.has("Double Chin") * 0.9), colours.line)
    edge = (head.across * head.across).clamp_(max=1.5)
    patch.shade(head.mask * edge * edge, 0.86)


def light(head: Head, patch: Patch, a: Anatomy) -> None:
    """Directional light on everything, by the slope of the head."""
    x, y, strength = a.p.light.unbind(1)
    across = head.across.clamp(-1, 1).mul_(column(x * strength * 0.6))
    down = (head.plane.v * 1.6).clamp_(-1, 1).mul_(column(y * strength * 0.45))
    patch.rgb *= across.add_(down).add_(1)[:, None]
