"""Data that is there without a download, and readers for what lies in folders."""

from facekernels.data.balanced import balanced_indices
from facekernels.data.embedded import (
    FACELESS,
    PHOTOGRAPHS,
    Digits,
    FaceCrops,
    digits,
    lfw_crops,
    photograph,
)
from facekernels.data.image_folder import ImageCache, read_image_folder

__all__ = [
    "FACELESS",
    "PHOTOGRAPHS",
    "Digits",
    "FaceCrops",
    "ImageCache",
    "balanced_indices",
    "digits",
    "lfw_crops",
    "photograph",
    "read_image_folder",
]
