"""Data that is there without a download, and readers for what lies in folders."""

from facekernels.data import faces
from facekernels.data.balanced import balanced_indices, subsample_to_counts
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
from facekernels.data.image_list import ImageList, ImageListDataset
from facekernels.data.imbalance import imbalanced_counts
from facekernels.data.paired_flip import PairedFlip
from facekernels.data.report import Problem, Report
from facekernels.data.samplers import RepeatToLength, inverse_frequency_weights

__all__ = [
    "FACELESS",
    "PHOTOGRAPHS",
    "Digits",
    "FaceCrops",
    "ImageCache",
    "ImageList",
    "ImageListDataset",
    "PairedFlip",
    "Problem",
    "RepeatToLength",
    "Report",
    "balanced_indices",
    "digits",
    "faces",
    "imbalanced_counts",
    "inverse_frequency_weights",
    "lfw_crops",
    "photograph",
    "read_image_folder",
    "subsample_to_counts",
]
