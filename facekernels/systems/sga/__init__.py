"""Universal adversarial perturbations: evaluation."""

from facekernels.systems.sga.evaluate import fooling_ratio

__all__ = ["fooling_ratio"]
