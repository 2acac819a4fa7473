"""Universal adversarial perturbations by stochastic gradient aggregation (SGA)."""

from facekernels.systems.sga.evaluate import (
    fooling_per_class,
    fooling_ratio,
    targeted_success,
    transfer_matrix,
)
from facekernels.systems.sga.losses import ClampedCrossEntropy, CosineLoss, LogitLoss, make_loss
from facekernels.systems.sga.perturbation import UniversalPerturbation
from facekernels.systems.sga.sampling import LegacyDraw
from facekernels.systems.sga.trainer import UAPTrainer

__all__ = [
    "ClampedCrossEntropy",
    "CosineLoss",
    "LegacyDraw",
    "LogitLoss",
    "UAPTrainer",
    "UniversalPerturbation",
    "fooling_per_class",
    "fooling_ratio",
    "make_loss",
    "targeted_success",
    "transfer_matrix",
]
