"""From parameters to pictures."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from facekernels import _check
from facekernels.data.faces import accessories, hair, head
from facekernels.data.faces.background import draw_background
from facekernels.data.faces.canvas import Canvas
from facekernels.data.faces.cheeks import draw_cheeks
from facekernels.data.faces.degrade import degrade
from facekernels.data.faces.eyes import draw_brows, draw_eyes
from facekernels.data.faces.geometry import Anatomy
from facekernels.data.faces.landmarks import landmarks
from facekernels.data.faces.mouth import draw_mouth
from facekernels.data.faces.nose import draw_forehead, draw_nose
from facekernels.data.faces.occluders import draw_occluder
from facekernels.data.faces.palette import Palette
from facekernels.data.faces.parameters import FaceParameters
from facekernels.data.labels import ATTRIBUTES

_PIXELS = 1 << 18  # drawn at a time: planes stay in the cache
_GENDER = ATTRIBUTES.index("Gender")


@dataclass(frozen=True)
class FaceBatch:
    """Pictures with their exact labels."""

    images: Tensor
    """``[n, 3, S, S]`` float32 in [0, 1], RGB; uint8 in 0 .. 255 where `make` was asked for it."""
    landmarks: Tensor
    """``[n, 29, 2]`` float32: x, y in pixels, in the order of `LANDMARKS`. The centre of the
    first pixel is (0, 0); points may lie outside the image."""
    visibility: Tensor
    """``[n, 29]`` bool: in the image, not turned away, not under an occluder."""
    face_mask: Tensor
    """``[n, 1, S, S]`` float32: coverage of the face, without what hair and hats cover. Occluders
    are not cut out."""
    occlusion_mask: Tensor
    """``[n, 1, S, S]`` float32: coverage of the occluder."""
    identity: Tensor
    """``[n]`` int64."""
    expression: Tensor
    """``[n]`` int64, 0 to 6."""
    expression_intensity: Tensor
    """``[n]`` float32."""
    age: Tensor
    """``[n]`` float32, years."""
    attributes: Tensor
    """``[n, 40]`` bool, in the order of `labels.ATTRIBUTES`."""
    gender: Tensor
    """``[n]`` int64: 1 is male, the column "Gender" of the attributes."""
    pose: Tensor
    """``[n, 3]`` float32: yaw, pitch, roll in degrees."""

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Any) -> FaceBatch:
        """The samples of a slice, a mask or an index tensor."""
        return FaceBatch(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


def render(p: FaceParameters, size: int = 64) -> FaceBatch:
    """Draw faces.

    A face is the same at every size: a small picture is what averaging a large one gives, up to
    the error of the one-pixel edges. Pixel noise is per pixel of the picture that is drawn.

    Args:
        p: from `sample`, or changed.
        size: side S of the images, at least 8.

    Returns:
        Pictures and labels, on the device of `p`.

    Raises:
        TypeError: `p` is no FaceParameters, `size` no integer.
        ValueError: `size` below 8.
    """
    if not isinstance(p, FaceParameters):
        raise TypeError(f"p must be a faces.FaceParameters, got {type(p).__name__}")
    size = _check.integer("size", size)
    if size < 8:
        raise ValueError(f"size must be at least 8, got {size}")
    step = max(1, _PIXELS // (size * size))
    parts = [_render(p[first : first + step], size) for first in range(0, len(p), step)]
    parts = parts or [_render(p, size)]
    images, points, visible, face, occlusion = (
        torch.cat(part) for part in zip(*parts, strict=True)
    )
    return FaceBatch(
        images=images,
        landmarks=points,
        visibility=visible,
        face_mask=face,
        occlusion_mask=occlusion,
        identity=p.identity,
        expression=p.expression,
        expression_intensity=p.intensity,
        age=p.age,
        attributes=p.attributes,
        gender=p.attributes[:, _GENDER].long(),
        pose=p.pose,
    )


def _render(p: FaceParameters, size: int) -> tuple[Tensor, ...]:
    """Images, landmarks, visibility, face mask and occlusion mask of one chunk."""
    a = Anatomy(p)
    colours = Palette(a)
    canvas = Canvas(len(p), size, p.shape.device)
    whole = canvas.whole()
    place = head.locate(whole, a)

    draw_background(whole, p)
    hair.draw_back(place, whole, a, colours)
    head.draw_neck(place, whole, a, colours)
    accessories.draw_neckwear(canvas, a)
    head.draw_ears(canvas, a, colours)
    head.draw_skin(place, whole, a, colours)
    hair.draw_beard(place, whole, a, colours)
    hair.draw_goatee(canvas, a, colours)
    draw_cheeks(canvas, a, colours)
    draw_forehead(canvas, a, colours)
    draw_mouth(canvas, a, colours)
    hair.draw_mustache(canvas, a, colours)
    draw_eyes(canvas, a, colours)
    draw_brows(canvas, a, colours)
    draw_nose(canvas, a, colours)
    over = hair.draw_front(place, whole, a, colours)
    accessories.draw_earrings(canvas, a)
    accessories.draw_glasses(canvas, a)
    hat = accessories.draw_hat(place, whole, a)
    over = over if hat is None else torch.maximum(over, hat)
    head.light(place, whole, a)
    occlusion = draw_occluder(place, whole, a, colours)

    images = canvas.rgb.clamp_(0, 1)
    degrade(images, p)
    points, facing = landmarks(a, size)
    visible = facing & _uncovered(points, occlusion, size)
    face = place.mask * (1 - over)
    return images, points, visible, face[:, None], occlusion[:, None]


def _uncovered(points: Tensor, occlusion: Tensor, size: int) -> Tensor:
    """``[n, L]``: in the image, at a pixel that the occluder covers by less than half."""
    at = (points + 0.5).floor().long()
    inside = ((at >= 0) & (at < size)).all(2)
    at = at.clamp(0, size - 1)
    flat = at[..., 1] * size + at[..., 0]
    return inside & (occlusion.flatten(1).gather(1, flat) < 0.5)
