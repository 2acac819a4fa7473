"""Rebalanced losses against the usual answers to unequal classes, on made-up faces."""

from __future__ import annotations

from typing import Any

import lightning

from facekernels.data import faces
from facekernels.data.batch_augment import BatchAugment
from facekernels.systems.balanced_fer.data import ExpressionData
from facekernels.systems.balanced_fer.task import ExpressionTask
from facekernels.systems.common.comparison import Comparison
from facekernels.systems.common.schedule import Optimization
from facekernels.systems.common.training import evaluate

LARGEST = 400
STEPS = 300
SIZE = 48
EPSILON = 0.1
LAMBDA = 0.01
FACES = faces.Settings(ambiguity=0.3, yaw=10, pitch=6, roll=5, accessories=0.3, light=(0, 0.2),
                       blurry=0, intensity=(0.8, 1))  # fmt: skip
AUGMENT = BatchAugment(rotate=5, scale=0.05, shift=0.03, jitter=0.2, erase=0)

METHODS: dict[str, dict[str, Any]] = {
    "cross_entropy": {"classification": "cross_entropy", "consistency": 0.0},
    "weighted": {"classification": "weighted", "consistency": 0.0},
    "focal": {"classification": "focal", "consistency": 0.0},
    "logit_adjustment": {"classification": "logit_adjustment", "consistency": 0.0},
    "rsl": {"classification": "rsl", "consistency": 0.0},
    "rac": {"classification": "cross_entropy", "consistency": LAMBDA},
    "both": {"classification": "rsl", "consistency": LAMBDA},
}
"""Arguments of the task; everything else is the same for all."""

_LABELS = {
    "cross_entropy": "cross-entropy",
    "weighted": "class-weighted cross-entropy",
    "focal": "focal loss",
    "logit_adjustment": "logit adjustment",
    "rsl": "RSL",
    "rac": "cross-entropy + RAC",
    "both": "RSL + RAC (the method)",
}


def measure(condition: str, method: str, seed: int, quick: bool) -> dict[str, float]:
    """Train `method` at imbalance `condition`, with data and start of `seed`."""
    lightning.seed_everything(seed, verbose=False)
    data = ExpressionData(
        "faces", image_size=SIZE, imbalance=float(condition), largest=60 if quick else LARGEST,
        test_per_class=20 if quick else 100, batch_size=64, settings=FACES, augment=AUGMENT,
        seed=seed,
    )  # fmt: skip
    task = ExpressionTask(
        "resnet", {"layers": [1, 1, 1, 1], "width": 16, "stem": "strided"}, SIZE,
        epsilon=EPSILON,
        optimization=Optimization(
            lr=4e-3, weight_decay=0.01, warmup_steps=20, warmup_jump=False
        ),
        **METHODS[method],
    )  # fmt: skip
    found = evaluate(task, data, steps=20 if quick else STEPS)
    return {
        "mean_accuracy": found["test/mean_accuracy"],
        "accuracy": found["test/accuracy"],
        "rarest": found["test/recall/Fear"],
    }


def comparison() -> Comparison:
    """The methods at imbalance factors 10, 50 and 100.

    The test split has as many images of every class, so mean and overall accuracy are the same
    number here; the recall of the rarest class says who pays.
    """
    return Comparison(
        title="Expression recognition with unequal classes, made-up faces",
        methods=_LABELS,
        conditions={str(f): f"imbalance {f}" for f in (10, 50, 100)},
        metrics={"mean_accuracy": "mean accuracy", "rarest": "recall of the rarest class"},
        measure=measure,
        ours="both",
        baselines=("cross_entropy", "weighted", "focal", "logit_adjustment", "rsl", "rac"),
        settings={
            "largest": LARGEST, "steps": STEPS, "image_size": SIZE, "batch_size": 64,
            "epsilon": EPSILON, "lambda": LAMBDA, "weights": "mek", "torch_threads": 1,
            "network": "ResNet of 4 blocks, width 16",
        },
        seeds=5,
    )  # fmt: skip
