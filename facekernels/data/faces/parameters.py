"""All that a picture is drawn from, as tensors with one row per sample."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from facekernels.data.labels import ATTRIBUTES

SHAPE: dict[str, str] = {
    "face_width": "wider",
    "face_height": "longer below the eyes",
    "forehead": "higher skull",
    "jaw_width": "less taper towards the chin",
    "jaw_square": "squarer jaw",
    "cheek_width": "fuller at cheek level",
    "eye_distance": "eyes further apart",
    "eye_size": "larger eyes",
    "eye_height": "eyes lower",
    "eye_slant": "outer corners higher",
    "iris_size": "larger irises",
    "eye_hue": "from brown over green and blue to grey",
    "brow_height": "brows further above the eyes",
    "brow_thickness": "thicker brows",
    "brow_slope": "outer ends higher",
    "brow_arch": "more arched",
    "brow_length": "longer brows",
    "nose_length": "longer nose",
    "nose_width": "wider nose",
    "nose_bridge": "stronger bridge",
    "mouth_width": "wider mouth",
    "mouth_height": "mouth lower",
    "upper_lip": "thicker upper lip",
    "lower_lip": "thicker lower lip",
    "cupid_bow": "deeper bow of the upper lip",
    "lip_hue": "redder lips",
    "ear_size": "larger ears",
    "skin_tone": "from light to dark",
    "skin_hue": "redder",
    "hair_shade": "lighter hair",
    "hair_length": "longer hair",
    "hair_volume": "more volume",
    "hairline": "hairline higher",
    "mole_u": "place of the mole, across",
    "mole_v": "place of the mole, along",
    "mole": "a mole above 0.3",
}
"""Columns of `FaceParameters.shape`, each in (-1, 1), and what a larger value means."""

_COLUMN = {name: column for column, name in enumerate(SHAPE)}
_ATTRIBUTE = {name: column for column, name in enumerate(ATTRIBUTES)}


@dataclass(frozen=True)
class FaceParameters:
    """One row per face; every field can be read, or changed with `replace`."""

    identity: Tensor
    """``[n]`` int64."""
    shape: Tensor
    """``[n, 36]`` float32: the columns of `SHAPE`, a function of the identity alone."""
    expression: Tensor
    """``[n]`` int64, 0 to 6 in the order of `labels.EXPRESSIONS`: the nominal class."""
    intensity: Tensor
    """``[n]`` float32."""
    blend: Tensor
    """``[n]`` float32 in [0, 1]: share of the neighbour class, see `Settings.ambiguity`."""
    activations: Tensor
    """``[n, 2, 16]`` float32: muscles of the image-left and image-right half, `UNITS`."""
    age: Tensor
    """``[n]`` float32, years."""
    roughness: Tensor
    """``[n]`` float32 in [0, 1]: blemishes of the skin."""
    attributes: Tensor
    """``[n, 40]`` bool in the order of `labels.ATTRIBUTES`."""
    pose: Tensor
    """``[n, 3]`` float32: yaw (positive: nose to the right of the image), pitch (positive: up),
    roll (positive: clockwise), degrees."""
    placement: Tensor
    """``[n, 3]`` float32: shift to the right and down, in half image sides, and scale."""
    light: Tensor
    """``[n, 3]`` float32: where the light comes from (right, down; length up to 1), strength."""
    background: Tensor
    """``[n, 9]`` float32: two colours, place and size of the soft shape (0: none)."""
    clothes: Tensor
    """``[n, 3]`` float32: their colour."""
    occluder: Tensor
    """``[n]`` int64: index in `OCCLUDERS`, 0 is none."""
    occluder_place: Tensor
    """``[n, 4]`` float32: centre in head units, scale, grey level or tone."""
    blur: Tensor
    """``[n]`` float32: standard deviation as a share of the image side."""
    noise: Tensor
    """``[n]`` float32: standard deviation of pixel noise."""
    resolution: Tensor
    """``[n]`` int64: effective size in pixels, 0 for full."""
    key: Tensor
    """``[n]`` int64: seeds pixel noise."""

    def __len__(self) -> int:
        return len(self.identity)

    def __getitem__(self, rows: Any) -> FaceParameters:
        """The samples of a slice, a mask or an index tensor."""
        return FaceParameters(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def replace(self, **changes: Tensor) -> FaceParameters:
        """A copy with other values in some fields. Nothing that depends on them is adapted:
        `set_attribute` does that for attributes.
        """
        return replace(self, **changes)

    def to(self, device: torch.device | str) -> FaceParameters:
        """The same on a device."""
        return FaceParameters(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def named(self, name: str) -> Tensor:
        """``[n]``: the column `name` of `shape`."""
        return self.shape[:, _COLUMN[name]]

    def has(self, attribute: str) -> Tensor:
        """``[n]`` bool: the column `attribute` of `attributes`."""
        return self.attributes[:, _ATTRIBUTE[attribute]]


def concatenate(parts: list[FaceParameters]) -> FaceParameters:
    """The samples of all parts, in their order."""
    return FaceParameters(
        **{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(FaceParameters)}
    )
