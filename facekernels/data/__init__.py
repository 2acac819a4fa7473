"""Data that is there without a download, and readers for what lies in folders."""

from facekernels.data import faces
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
from facekernels.data.imbalance import imbalanced_counts

__all__ = [
    "FACELESS",
    "PHOTOGRAPHS",
    "Digits",
    "FaceCrops",
    "ImageCache",
    "balanced_indices",
    "digits",
    "faces",
    "imbalanced_counts",
    "lfw_crops",
    "photograph",
    "read_image_folder",
]
