"""Things in front of the face."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from facekernels.data.faces.canvas import Plane, column

if TYPE_CHECKING:
    from facekernels.data.faces.canvas import Patch
    from facekernels.data.faces.geometry import Anatomy
    from facekernels.data.faces.head import Head
    from facekernels.data.faces.palette import Palette

OCCLUDERS: tuple[str, ...] = ("none", "bar", "mask", "hand", "patch")
"""Classes of `FaceParameters.occluder`: nothing; a dark bar over the eyes; a mask over nose and
mouth; a hand; a rectangle anywhere."""


def draw_occluder(head: Head, patch: Patch, a: Anatomy, colours: Palette) -> Tensor:
    """Paint it and return its coverage ``[n, h, w]``."""
    plane, kind = head.plane, a.p.occluder
    cover = torch.zeros_like(plane.u)
    x, y, size, tone = a.p.occluder_place.unbind(1)
    grey = tone[:, None].expand(-1, 3)
    cloth = grey * 0.6 + grey.new_tensor([0.3, 0.38, 0.4])
    skin = colours.skin * 0.86
    shapes = {
        "bar": (lambda: _bar(plane, head, a, size), grey * 0.12),
        "mask": (lambda: _mask(plane, head, a, size), cloth),
        "hand": (lambda: _hand(plane, x, y, size), skin),
        "patch": (lambda: plane.box(x, y, size * 0.24, size * 0.2), grey),
    }
    for number, name in enumerate(OCCLUDERS[1:], 1):
        chosen = kind == number
        if bool(chosen.any()):
            shape, colour = shapes[name]
            mask = shape() * column(chosen.float())
            patch.paint(mask, colour)
            cover = torch.maximum(cover, mask)
    return cover


def _bar(plane: Plane, head: Head, a: Anatomy, size: Tensor) -> Tensor:
    v = a.eye_y + head.turned[1]
    return plane.box(head.turned[0] * 0.6, v, a.half_width * 1.02, 0.105 * size)


def _mask(plane: Plane, head: Head, a: Anatomy, size: Tensor) -> Tensor:
    """From the bridge of the nose to the chin; higher in the middle."""
    bow = head.across * head.across
    upper = column(a.nose_y - 0.09 * size + head.turned[1]) + bow * 0.07
    grown = torch.minimum(head.mask + plane.ellipse(*head.chin, 0.2, 0.05), torch.ones_like(bow))
    return grown * plane.inside(upper - plane.v)


def _hand(plane: Plane, x: Tensor, y: Tensor, size: Tensor) -> Tensor:
    """A palm and four fingers upwards."""
    cover = plane.ellipse(x, y + 0.25 * size, 0.2 * size, 0.2 * size)
    for number in range(4):
        u = x + size * (number * 0.105 - 0.158)
        reach = 0.19 if number in (1, 2) else 0.15
        finger = plane.ellipse(u, y - 0.02 * size, size * 0.046, size * reach)
        cover = torch.maximum(cover, finger)
    return cover
