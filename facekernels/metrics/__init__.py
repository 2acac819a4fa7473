"""Measures of the published protocols."""

from facekernels.metrics.clustering import (
    ClusteringScores,
    bcubed_f,
    nmi,
    pairwise_f,
    single_removed,
)

__all__ = ["ClusteringScores", "bcubed_f", "nmi", "pairwise_f", "single_removed"]
