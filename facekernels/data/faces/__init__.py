"""Procedural faces with exact ground truth, as vectorised PyTorch.

`sample` draws parameters (identity, expression, age, attributes, pose, light, occluders ...),
`render` draws their pictures at any size, `make` does both. The same seed gives the same bits.
"""

from facekernels.data.faces.attributes import set_attribute, set_attributes
from facekernels.data.faces.expression import (
    ACTION_UNITS,
    NEIGHBOURS,
    PATTERNS,
    UNITS,
    activations,
)
from facekernels.data.faces.landmarks import FIVE_POINTS, LANDMARKS
from facekernels.data.faces.make import FaceDataset, make, to_uint8
from facekernels.data.faces.occluders import OCCLUDERS
from facekernels.data.faces.parameters import SHAPE, FaceParameters, concatenate
from facekernels.data.faces.render import FaceBatch, render
from facekernels.data.faces.sampling import sample
from facekernels.data.faces.settings import BACKGROUNDS, Settings

__all__ = [
    "ACTION_UNITS",
    "BACKGROUNDS",
    "FIVE_POINTS",
    "LANDMARKS",
    "NEIGHBOURS",
    "OCCLUDERS",
    "PATTERNS",
    "SHAPE",
    "UNITS",
    "FaceBatch",
    "FaceDataset",
    "FaceParameters",
    "Settings",
    "activations",
    "concatenate",
    "make",
    "render",
    "sample",
    "set_attribute",
    "set_attributes",
    "to_uint8",
]
