"""Drawing on a stack of images: soft masks of simple shapes, composited in rectangular patches.

Coordinates run from -1 to 1 over the image, x to the right, y down. A feature is drawn in its own
frame, an affine image of a plane, and only in the patch around it. The edge of a mask is as wide as
a pixel, so that it has the coverage that averaging a finer image would give.

Per pixel there are only single additions, products, quotients, square roots and comparisons, which
IEEE rounds alike wherever an element lies in a vector: a pixel has the same bits in every batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def column(values: Tensor) -> Tensor:
    """``[n]`` -> ``[n, 1, 1]``, against pixels."""
    return values[:, None, None]


@dataclass(frozen=True)
class Frame:
    """Per sample the map (u, v) -> (x, y) = centre + u (ux, uy) + v (vx, vy)."""

    x: Tensor
    y: Tensor
    ux: Tensor
    uy: Tensor
    vx: Tensor
    vy: Tensor

    def place(self, u: Tensor | float, v: Tensor | float) -> tuple[Tensor, Tensor]:
        """Image coordinates of points of the frame."""
        return self.x + self.ux * u + self.vx * v, self.y + self.uy * u + self.vy * v

    def moved(self, u: Tensor | float, v: Tensor | float) -> Frame:
        """The frame with its origin at (u, v)."""
        return Frame(*self.place(u, v), self.ux, self.uy, self.vx, self.vy)

    def turned(self, slope: Tensor) -> Frame:
        """The frame with its axes turned towards v by a small angle, whose tangent is `slope`."""
        scale = 1 / (1 + slope * slope).sqrt()
        c, s = scale, slope * scale
        return Frame(
            self.x, self.y,
            self.ux * c + self.vx * s, self.uy * c + self.vy * s,
            self.vx * c - self.ux * s, self.vy * c - self.uy * s,
        )  # fmt: skip

    @property
    def area(self) -> Tensor:
        """Image area of a unit square."""
        return (self.ux * self.vy - self.uy * self.vx).abs()


class Patch:
    """A rectangle of every image, of one size, at a place of its own."""

    def __init__(self, canvas: Canvas, rows: Tensor, columns: Tensor, height: int, width: int):
        size, device = canvas.size, canvas.rgb.device
        self.size = size
        self.y = ((rows[:, None] + torch.arange(height, device=device)) * 2 + 1) / size - 1
        self.x = ((columns[:, None] + torch.arange(width, device=device)) * 2 + 1) / size - 1
        self.whole = height == width == size
        if self.whole:
            self.rgb = canvas.rgb
        else:
            down = rows[:, None] + torch.arange(height, device=device)
            across = columns[:, None] + torch.arange(width, device=device)
            at = (down[:, :, None] * size + across[:, None, :]).view(len(rows), 1, height * width)
            self._at = at.expand(-1, 3, -1)
            flat = canvas.rgb.view(len(rows), 3, size * size)
            self.rgb = flat.gather(2, self._at).view(len(rows), 3, height, width)

    def local(self, frame: Frame) -> Plane:
        """Coordinates of the pixels in a frame."""
        det = frame.ux * frame.vy - frame.uy * frame.vx
        x, y = self.x - frame.x[:, None], self.y - frame.y[:, None]
        u = (x * (frame.vy / det)[:, None])[:, None, :] - (y * (frame.vx / det)[:, None])[
            :, :, None
        ]
        v = (y * (frame.ux / det)[:, None])[:, :, None] - (x * (frame.uy / det)[:, None])[
            :, None, :
        ]
        pixel = 2 / self.size / frame.area.sqrt()
        return Plane(u, v, column(pixel))

    def paint(self, mask: Tensor, colour: Tensor) -> None:
        """Lay `colour` (``[n, 3]``, or of every pixel) over what is there, where the mask is."""
        colour = colour[:, :, None, None] if colour.ndim == 2 else colour
        self.rgb += (colour - self.rgb).mul_(mask[:, None])

    def shade(self, mask: Tensor, factor: Tensor | float) -> None:
        """Multiply by `factor` (a number or ``[n]``) where the mask is."""
        change = column(factor - 1) if isinstance(factor, Tensor) else factor - 1
        self.rgb *= (mask * change).add_(1)[:, None]


class Canvas:
    """Images ``[n, 3, size, size]`` being drawn."""

    def __init__(self, n: int, size: int, device: torch.device):
        self.size = size
        self.rgb = torch.zeros(n, 3, size, size, device=device)
        self._origin = torch.zeros(n, dtype=torch.int64, device=device)

    def whole(self) -> Patch:
        """The whole images; what is painted needs no `put`."""
        return Patch(self, self._origin, self._origin, self.size, self.size)

    def patch(self, frame: Frame, u: tuple[float, float], v: tuple[float, float]) -> Patch:
        """Around the rectangle `u` x `v` of a frame, which must hold all that will be painted."""
        corners = [frame.place(a, b) for a in u for b in v]
        starts, lengths = [], []
        for axis in (1, 0):
            ends = torch.stack([corner[axis] for corner in corners]).add_(1).mul_(self.size / 2)
            low = (ends.amin(0).floor() - 1).clamp(0, self.size)
            high = (ends.amax(0).ceil() + 1).clamp(0, self.size)
            length = max(1, int((high - low).max()) if len(low) else 1)
            starts.append(low.clamp(max=self.size - length).long())
            lengths.append(length)
        return Patch(self, starts[0], starts[1], lengths[0], lengths[1])

    def put(self, patch: Patch) -> None:
        """Write the pixels of a patch back."""
        if not patch.whole:
            flat = self.rgb.view(len(self.rgb), 3, self.size * self.size)
            flat.scatter_(2, patch._at, patch.rgb.flatten(2))


@dataclass(frozen=True)
class Plane:
    """Pixels in a frame, with the masks that can be drawn there. Sizes are ``[n]`` or numbers."""

    u: Tensor
    v: Tensor
    pixel: Tensor
    """``[n, 1, 1]``: side of a pixel in units of the frame."""

    def inside(self, distance: Tensor) -> Tensor:
        """Coverage where the signed distance is negative. Overwrites it."""
        return distance.div_(self.pixel).neg_().add_(0.5).clamp_(0, 1)

    def soft(self, distance: Tensor, width: float) -> Tensor:
        """Like `inside` with an edge of this width, in units of the frame."""
        return (0.5 - distance / self.pixel.clamp(min=width)).clamp_(0, 1)

    def line(self, distance: Tensor, width: Tensor | float) -> Tensor:
        """Coverage of a line of half-width `width`, also where it is thinner than a pixel."""
        half = _values(width) / self.pixel
        most = (half * 2).clamp(max=1.0)
        cover = (half + 0.5) - distance.abs() / self.pixel
        return torch.minimum(cover.clamp_(min=0), most)

    def ellipse(
        self, u: Tensor | float, v: Tensor | float, a: Tensor | float, b: Tensor | float
    ) -> Tensor:
        """Coverage of an ellipse with centre (u, v) and half-axes a, b."""
        p = (self.u - _values(u)) / _values(a)
        q = (self.v - _values(v)) / _values(b)
        slope_u, slope_v = p / _values(a), q / _values(b)
        p, q = p * p, q * q
        p += q
        p -= 1
        slope_u *= slope_u
        slope_v *= slope_v
        slope_u += slope_v
        slope = slope_u.sqrt_().mul_(2).add_(1e-6)
        return self.inside(p / slope)

    def box(
        self, u: Tensor | float, v: Tensor | float, a: Tensor | float, b: Tensor | float
    ) -> Tensor:
        """Coverage of a rectangle with centre (u, v) and half-sides a, b."""
        across = (self.u - _values(u)).abs() - _values(a)
        down = (self.v - _values(v)).abs() - _values(b)
        return self.inside(across) * self.inside(down)

    def blob(
        self, u: Tensor | float, v: Tensor | float, a: Tensor | float, b: Tensor | float
    ) -> Tensor:
        """A soft spot: (1 - r^2)^2 inside the ellipse, 0 outside."""
        p = (self.u - _values(u)) / _values(a)
        q = (self.v - _values(v)) / _values(b)
        p *= p
        q *= q
        p += q
        spot = p.neg_().add_(1).clamp_(min=0)
        return spot * spot

    def arc(
        self, u: Tensor | float, v: Tensor | float, length: Tensor | float,
        bend: Tensor | float, width: Tensor | float,
    ) -> Tensor:  # fmt: skip
        """A line through (u, v) of half-length `length`, whose ends lie `bend` lower."""
        p = (self.u - _values(u)) / _values(length)
        bow = (p * p).mul_(_values(bend))
        distance = (self.v - _values(v)) - bow
        ends = (p.abs_() - 1).mul_(_values(length))
        return self.line(distance, width) * self.inside(ends)


def _values(x: Tensor | float) -> Tensor | float:
    return column(x) if isinstance(x, Tensor) and x.ndim == 1 else x


def wave(t: Tensor) -> Tensor:
    """Period 1, from -1 to 1, two parabolas per period: close to a sine, and exact arithmetic."""
    phase = t - t.floor()
    half = (phase * 2).floor()
    s = phase * 2 - half
    return (1 - half * 2) * (s * (1 - s) * 4)
