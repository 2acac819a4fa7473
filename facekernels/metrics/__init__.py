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
from facekernels.metrics.ijbc import (
    TemplateImages,
    TemplatePairs,
    Templates,
    pair_scores,
    pool_templates,
    read_template_images,
    read_template_media,
    read_template_pairs,
    template_verification,
)
from facekernels.metrics.intervals import Interval, t_interval
from facekernels.metrics.verification import Verification, pair_distances, tar_at_far, verify

__all__ = [
    "ClusteringScores",
    "Interval",
    "TemplateImages",
    "TemplatePairs",
    "Templates",
    "Verification",
    "accuracy",
    "bcubed_f",
    "confusion_matrix",
    "epsilon_error",
    "mean_absolute_error",
    "mean_accuracy",
    "nmi",
    "pair_distances",
    "pair_scores",
    "pairwise_f",
    "pool_templates",
    "read_template_images",
    "read_template_media",
    "read_template_pairs",
    "recalls",
    "save_confusion_picture",
    "single_removed",
    "t_interval",
    "tar_at_far",
    "template_verification",
    "top_k_accuracy",
    "verify",
]
