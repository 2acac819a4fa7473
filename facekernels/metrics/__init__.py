"""Measures of the published protocols."""

from facekernels.metrics.age import epsilon_error, mean_absolute_error
from facekernels.metrics.classification import (
    accuracy,
    confusion_matrix,
    mean_accuracy,
    recalls,
    save_confusion_picture,
    top_k_accuracy,
)
from facekernels.metrics.clustering import (
    ClusteringScores,
    bcubed_f,
    nmi,
    pairwise_f,
    single_removed,
)
from facekernels.metrics.intervals import Interval, t_interval
from facekernels.metrics.verification import Verification, pair_distances, tar_at_far, verify

__all__ = [
    "ClusteringScores",
    "Interval",
    "Verification",
    "accuracy",
    "bcubed_f",
    "confusion_matrix",
    "epsilon_error",
    "mean_absolute_error",
    "mean_accuracy",
    "nmi",
    "pair_distances",
    "pairwise_f",
    "recalls",
    "save_confusion_picture",
    "single_removed",
    "t_interval",
    "tar_at_far",
    "top_k_accuracy",
    "verify",
]
