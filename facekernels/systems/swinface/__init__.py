"""SwinFace: recognition, expression, age and 40 attributes by one Swin transformer."""

from facekernels.systems.swinface.checkpoint import (
    load_backbone,
    load_network,
    load_published,
    save_published,
)
from facekernels.systems.swinface.labels import GROUPS, TASKS
from facekernels.systems.swinface.losses import AgeLoss, MultiTaskLoss
from facekernels.systems.swinface.model import FaceAnalysisSubnets, OutputModule, SwinFace
from facekernels.systems.swinface.predict import FaceAnalysis, draw, load, predict

__all__ = [
    "GROUPS",
    "TASKS",
    "AgeLoss",
    "FaceAnalysis",
    "FaceAnalysisSubnets",
    "MultiTaskLoss",
    "OutputModule",
    "SwinFace",
    "draw",
    "load",
    "load_backbone",
    "load_network",
    "load_published",
    "predict",
    "save_published",
]
