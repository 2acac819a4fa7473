"""What is behind the head."""

from __future__ import annotations

from facekernels.data.faces.canvas import Patch, column
from facekernels.data.faces.parameters import FaceParameters


def draw_background(patch: Patch, p: FaceParameters) -> None:
    """A gradient from top to bottom and a soft spot of the second colour."""
    first, second = p.background[:, :3], p.background[:, 3:6]
    x, y, size = p.background[:, 6:].unbind(1)
    fall = (patch.y * 0.5 + 0.5)[:, None, :, None] * 0.4
    rgb = first[:, :, None, None] * (1 - fall) + second[:, :, None, None] * fall
    patch.rgb.copy_(rgb.expand_as(patch.rgb))
    reach = size.clamp(min=0.01)
    u, v = (patch.x - x[:, None]) / reach[:, None], (patch.y - y[:, None]) / reach[:, None]
    spot = (1 - (u * u)[:, None, :] - (v * v)[:, :, None]).clamp_(min=0)
    patch.paint(spot * spot * column((size > 0).float()), second)
