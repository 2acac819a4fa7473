"""Universal adversarial perturbations by stochastic gradient aggregation (SGA)."""

from facekernels.systems.sga.evaluate import (
    fooling_per_class,
    fooling_ratio,
    targeted_success,
    transfer_matrix,
)
from facekernels.systems.sga.perturbation import UniversalPerturbation

__all__ = [
    "UniversalPerturbation",
    "fooling_per_class",
    "fooling_ratio",
    "targeted_success",
    "transfer_matrix",
]
