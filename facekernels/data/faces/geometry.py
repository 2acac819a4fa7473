"""Where the parts of a face are: sizes in the head, and their projection into the image.

Head units: the origin is between the eyes and the nose, X to the right of the image, Y down, Z
towards the viewer; a face is about 0.9 wide and 1.2 high. Features lie on an ellipsoid, the nose
before it, so that turning the head moves them by their depth.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from facekernels.data.faces.canvas import Frame
from facekernels.data.faces.expression import UNITS
from facekernels.data.faces.parameters import FaceParameters

SIDES = (-1, 1)
"""Image-left, image-right."""
DEPTH = 0.42
ZOOM = 1.2
_RAISED = 0.06  # leaves room for collar and necklace
_PERSPECTIVE = 0.15
_THINNEST = 0.05  # area of a part that is turned away, over that of one that is not


def sine(degrees: Tensor) -> Tensor:
    """Taylor polynomial in float64 after reduction to [-90, 90]: the same bits in every batch."""
    x = degrees.double()
    x = x - ((x + 180) / 360).floor() * 360
    x = torch.where(x > 90, 180 - x, torch.where(x < -90, -180 - x, x)) * (torch.pi / 180)
    square, term = x * x, x
    total = x
    for k in (6, 20, 42, 72, 110, 156):
        term = term * square / -k
        total = total + term
    return total.float()


class Pose:
    """Rotation, scale and shift of the head, and its depth at every place."""

    def __init__(self, p: FaceParameters, width: Tensor, height: Tensor):
        self.width, self.height = width, height
        self.placement = p.placement
        yaw, pitch, roll = p.pose.unbind(1)
        self.sin_yaw, self.cos_yaw = sine(yaw), sine(yaw + 90)
        self.sin_pitch, self.cos_pitch = sine(pitch), sine(pitch + 90)
        self.sin_roll, self.cos_roll = sine(roll), sine(roll + 90)

    def surface(self, x: Tensor | float, y: Tensor | float) -> Tensor:
        """Depth of the head at (x, y)."""
        p, q = x / (self.width * 1.08), y / (self.height * 1.15)
        return (1 - p * p - q * q).clamp(min=0.04).sqrt() * DEPTH

    def turn(self, x: Tensor | float, y: Tensor | float, z: Tensor | float) -> tuple[Tensor, ...]:
        """A point of the head after yaw and pitch."""
        x1 = x * self.cos_yaw + z * self.sin_yaw
        z1 = z * self.cos_yaw - x * self.sin_yaw
        return (
            x1,
            y * self.cos_pitch - z1 * self.sin_pitch,
            y * self.sin_pitch + z1 * self.cos_pitch,
        )

    def project(
        self, x: Tensor | float, y: Tensor | float, z: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """Image coordinates of a point of the head."""
        return self.flat(*self.seen(x, y, z))

    def flat(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Roll, scale and shift alone."""
        right, down, zoom = self.placement.unbind(1)
        scale = zoom * ZOOM
        return (
            (x * self.cos_roll - y * self.sin_roll) * scale + right,
            (x * self.sin_roll + y * self.cos_roll) * scale + (down - _RAISED),
        )

    def frame(
        self, x: Tensor | float, y: Tensor | float, lift: float = 0.0, side: int = 1
    ) -> Frame:
        """The plane that touches the head at (x, y), `lift` before it; side -1 mirrors u."""
        step = 0.02

        def at(dx: float, dy: float) -> tuple[Tensor, Tensor]:
            px, py = x + dx, y + dy
            return self.project(px, py, self.surface(px, py) + lift)

        centre = at(0, 0)
        right, left, down, up = at(step, 0), at(-step, 0), at(0, step), at(0, -step)
        scale = 1 / (2 * step)
        u = [(a - b) * (scale * side) for a, b in zip(right, left, strict=True)]
        v = [(a - b) * scale for a, b in zip(down, up, strict=True)]
        # Seen from the edge, a part keeps some width: its plane must map back.
        area = (u[0] * v[1] - u[1] * v[0]) * side
        zoom = self.placement[:, 2] * ZOOM
        widen = (zoom * zoom * _THINNEST - area).clamp(min=0) / (v[0] * v[0] + v[1] * v[1]) * side
        return Frame(*centre, u[0] + widen * v[1], u[1] - widen * v[0], v[0], v[1])

    def facing(self, x: Tensor | float, y: Tensor | float) -> Tensor:
        """Cosine between the surface at (x, y) and the viewer; negative: turned away."""
        z = self.surface(x, y)
        a, b = self.width * 1.08, self.height * 1.15
        nx, ny, nz = x / (a * a), y / (b * b), z / (DEPTH * DEPTH)
        length = (nx * nx + ny * ny + nz * nz).sqrt()
        return self.turn(nx / length, ny / length, nz / length)[2]

    def seen(
        self, x: Tensor | float, y: Tensor | float, z: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """A point of the head in the frame `head`."""
        x, y, z = self.turn(x, y, z)
        near = z * _PERSPECTIVE + (1 - DEPTH * _PERSPECTIVE)
        return x * near, y * near

    def head(self) -> Frame:
        """The plane through the middle of the head, which only rolls."""
        zero = torch.zeros_like(self.width)
        x, y = self.flat(zero, zero)
        ux, uy = self.flat(zero + 1, zero)
        vx, vy = self.flat(zero, zero + 1)
        return Frame(x, y, ux - x, uy - y, vx - x, vy - y)


class Anatomy:
    """Sizes of one batch of faces, in head units, with age, attributes and muscles applied."""

    def __init__(self, p: FaceParameters):
        self.p = p
        s, has = p.named, self.has
        self.child = ((16 - p.age) / 14).clamp(0, 1)
        self.old = ((p.age - 22) / 55).clamp(0, 1)
        adult = 1 - self.child
        self.male = has("Gender") * adult
        self.female = adult - self.male
        child, male = self.child, self.male
        chubby, oval = has("Chubby"), has("Oval Face")

        self.half_width = 0.445 * (
            1 + 0.08 * s("face_width") + 0.1 * child + 0.15 * chubby - 0.09 * oval
        )
        self.top = 0.58 * (1 + 0.05 * s("forehead") + 0.02 * child)
        jaw_drop = 0.5 * (self.both("AU26"))
        self.chin = 0.60 * (
            1 + 0.07 * s("face_height") + 0.12 * oval - 0.19 * child + 0.03 * male + 0.03 * self.old
        )
        self.bottom = self.chin + 0.12 * jaw_drop
        self.taper = (
            0.36 - 0.1 * s("jaw_width") - 0.1 * male - 0.14 * chubby - 0.07 * self.old + 0.04 * oval
        ).clamp(0.1, 0.5)
        self.square = (0.3 + 0.2 * s("jaw_square") + 0.25 * male - 0.25 * oval).clamp(0, 0.8)
        self.cheek = 0.02 + 0.03 * s("cheek_width") + 0.16 * chubby + 0.05 * child
        self.cheek = self.cheek + 0.04 * has("High Cheekbones")

        self.eye_x = self.half_width * (0.44 + 0.04 * s("eye_distance"))
        self.eye_y = -0.07 + 0.025 * s("eye_height") + 0.09 * child
        self.eye_width = 0.104 * (1 + 0.13 * s("eye_size") + 0.16 * child)
        self.eye_slant = -0.1 * s("eye_slant")
        self.iris = 0.049 * (1 + 0.1 * s("iris_size") + 0.24 * child)
        self.brow_y = self.eye_y - 0.132 - 0.025 * s("brow_height") - 0.02 * (1 - male)
        self.nose_y = 0.15 + 0.03 * s("nose_length") + 0.015 * child + 0.02 * self.old
        self.nose_y = self.nose_y + 0.02 * has("Big Nose") + 0.02 * has("Pointy Nose")
        self.nose_width = 0.088 * (
            1 + 0.15 * s("nose_width") + 0.1 * male + 0.1 * self.old - 0.3 * child
            + 0.55 * has("Big Nose") - 0.35 * has("Pointy Nose")
        )  # fmt: skip
        self.mouth_y = self.nose_y + 0.2 * (self.chin / 0.6) + 0.02 * s("mouth_height")
        self.mouth_width = 0.195 * (1 + 0.12 * s("mouth_width") - 0.2 * child)
        self.pose = Pose(p, self.half_width, self.top)

    def has(self, attribute: str) -> Tensor:
        """``[n]`` 0 or 1."""
        return self.p.has(attribute).float()

    def any(self, attribute: str) -> bool:
        """Whether any face has it: layers that no face has are not drawn."""
        return bool(self.p.has(attribute).any())

    def muscle(self, unit: str, side: int) -> Tensor:
        """``[n]`` activation on the image-left (-1) or image-right (1) side."""
        return self.p.activations[:, (side + 1) // 2, UNITS.index(unit)]

    def both(self, unit: str) -> Tensor:
        """Sum of both sides."""
        return self.muscle(unit, -1) + self.muscle(unit, 1)

    def mean(self, unit: str) -> Tensor:
        """Mean of both sides."""
        return self.both(unit) * 0.5

    @cached_property
    def eyes(self) -> dict[int, Frame]:
        """By side, at the centre of the iris; u points outwards."""
        return {side: self._eye(side) for side in SIDES}

    def _eye(self, side: int) -> Frame:
        return self.pose.frame(self.eye_x * side, self.eye_y, 0.0, side).turned(self.eye_slant)

    @cached_property
    def brows(self) -> dict[int, Frame]:
        """By side, at the middle of the brow at rest; u points outwards. Frowning (AU4) brings them
        inwards.
        """
        return {side: self._brow(side) for side in SIDES}

    def _brow(self, side: int) -> Frame:
        x = self.eye_x * 1.03 - 0.022 * self.muscle("AU4", side)
        return self.pose.frame(x * side, self.brow_y, 0.02, side)

    @cached_property
    def nose(self) -> Frame:
        """At the tip."""
        return self.pose.frame(torch.zeros_like(self.nose_y), self.nose_y, 0.1)

    @cached_property
    def mouth(self) -> Frame:
        """At the middle of the line between the lips."""
        return self.pose.frame(torch.zeros_like(self.mouth_y), self.mouth_y, 0.03)
