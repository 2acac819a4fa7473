"""Data that is there without a download."""

from facekernels.data.embedded import (
    FACELESS,
    PHOTOGRAPHS,
    FaceCrops,
    lfw_crops,
    photograph,
)

__all__ = ["FACELESS", "PHOTOGRAPHS", "FaceCrops", "lfw_crops", "photograph"]
