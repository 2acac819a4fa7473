"""The systems that the command line knows. Light: no system is imported."""

from __future__ import annotations

from typing import NamedTuple


class System(NamedTuple):
    """What the command line does with a system."""

    compares: str
    """What `facekernels reproduce` compares, in words."""
    task: str = ""
    """Class in the system's `task.py`; "" where `facekernels fit` does not train it."""
    data: str = ""
    """Class in its `data.py`."""
    best: str = ""
    """Metric, larger is better, whose best checkpoint is kept beside the last; "" keeps none."""
    predicts: bool = False
    """Whether it has `load`, `predict` and `draw`."""


SYSTEMS = {
    "sga": System(
        "universal perturbations (random signs, DeepFool, SPGD, SGA) at equal budgets on digits "
        "and LFW face crops"
    ),
    "linkage": System(
        "the linkage network and other clustering methods on made-up identities and digits"
    ),
    "balanced_fer": System(
        "rebalanced losses and their peers on faces and digits in classes of unequal size",
        "ExpressionTask", "ExpressionData", best="val/mean_accuracy", predicts=True,
    ),
    "swinface": System(
        "multi-task with channel attention against single tasks and against the same network "
        "without it",
        "SwinFaceTask", "SwinFaceData", predicts=True,
    ),
}  # fmt: skip
"""By name, which for a trained system is its folder's under `facekernels.systems`."""

TRAINED = tuple(name for name, system in SYSTEMS.items() if system.task)
PREDICTING = tuple(name for name, system in SYSTEMS.items() if system.predicts)
