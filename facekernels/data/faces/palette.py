"""Colours of skin, hair, eyes and lips."""

from __future__ import annotations

import torch
from torch import Tensor

from facekernels.data.faces.geometry import Anatomy

_SKIN = torch.tensor(
    [[0.98, 0.85, 0.76], [0.92, 0.74, 0.61], [0.80, 0.59, 0.44], [0.60, 0.40, 0.28],
     [0.36, 0.23, 0.16]]
)  # fmt: skip
_IRIS = torch.tensor(
    [[0.20, 0.11, 0.05], [0.42, 0.25, 0.10], [0.38, 0.45, 0.20], [0.20, 0.45, 0.70],
     [0.45, 0.52, 0.56]]
)  # fmt: skip
_HAIR = {
    "Black Hair": (0.07, 0.06, 0.06),
    "Brown Hair": (0.36, 0.21, 0.11),
    "Blond Hair": (0.88, 0.72, 0.40),
    "Gray Hair": (0.70, 0.70, 0.71),
}
_RED_HAIR = (0.58, 0.22, 0.07)


def _blend(table: Tensor, at: Tensor) -> Tensor:
    """``[n, 3]`` between the rows of a table, `at` in [0, 1]."""
    table = table.to(at.device)
    place = at.clamp(0, 1) * (len(table) - 1)
    row = place.floor().clamp(max=len(table) - 2)
    share = (place - row)[:, None]
    first, second = table[row.long()], table[row.long() + 1]
    return first + (second - first) * share


class Palette:
    """Of one batch of faces; each ``[n, 3]``."""

    def __init__(self, a: Anatomy):
        s, has = a.p.named, a.has
        pale = has("Pale Skin")[:, None]
        skin = _blend(_SKIN, (s("skin_tone") * 0.75 + 0.42).clamp(0, 1))
        hue = torch.stack([s("skin_hue") * 0.03, s("skin_hue") * -0.01, s("skin_hue") * -0.03], 1)
        skin = (skin + hue).clamp(0, 1)
        self.skin = skin + (skin.new_tensor([0.99, 0.94, 0.92]) - skin) * (pale * 0.75)
        self.iris = _blend(_IRIS, s("eye_hue") * 0.6 + 0.4)
        self.hair = self._hair(a)
        self.brow = self.hair * 0.62
        lips = self.skin * self.skin.new_tensor([0.86, 0.62, 0.62])
        lips = lips + (s("lip_hue") * 0.05)[:, None] * self.skin.new_tensor([1.0, -0.6, -0.5])
        stick = self.skin.new_tensor([0.80, 0.05, 0.16])
        self.lips = lips + (stick - lips) * (has("Wearing Lipstick") * 0.9)[:, None]
        self.line = self.skin * self.skin.new_tensor([0.55, 0.45, 0.42])
        """Of wrinkles and folds."""

    def _hair(self, a: Anatomy) -> Tensor:
        red = self.skin.new_tensor(_RED_HAIR)
        colour = red.expand(len(a.p), 3)
        bald = a.has("Bald")[:, None]
        colour = colour + (self.skin.new_tensor((0.3, 0.24, 0.2)) - colour) * bald
        for name, rgb in _HAIR.items():
            colour = torch.where(a.p.has(name)[:, None], self.skin.new_tensor(rgb), colour)
        shade = 1 + 0.25 * a.p.named("hair_shade")
        colour = (colour * shade[:, None]).clamp(0, 1)
        # Single grey hairs come before the attribute.
        grey = (a.old * 0.35 * (1 - a.has("Gray Hair")))[:, None]
        return colour + (self.skin.new_tensor([0.62, 0.62, 0.63]) - colour) * grey
