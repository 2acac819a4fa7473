"""Rebalanced losses against the usual answers to unequal classes, on made-up faces and digits."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from typing import Any

import lightning
import torch
from torch import Tensor

from facekernels.data import faces
from facekernels.data.batch_augment import BatchAugment
from facekernels.nn import ResNet
from facekernels.systems.balanced_fer.data import ExpressionData
from facekernels.systems.balanced_fer.task import ExpressionTask
from facekernels.systems.common.comparison import Comparison
from facekernels.systems.common.landmark_start import landmark_start
from facekernels.systems.common.schedule import Optimization
from facekernels.systems.common.training import evaluate


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    image_size: int = 40
    largest: int = 400
    test_per_class: int = 100
    digits_per_class: int = 40
    steps: int = 300
    start_images: int = 4000
    start_steps: int = 600
    batch_size: int = 64


FULL = Scale()
QUICK = Scale(largest=60, test_per_class=20, steps=20, start_images=128, start_steps=10)

EPSILON = 0.3
LAMBDA = 0.05
RATE = 3e-3
NETWORK: dict[str, Any] = {"layers": [1, 1, 1, 1], "width": 16, "stem": "strided"}
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
    """Train `method` under `condition` ("faces 50": data set, imbalance) with `seed`."""
    dataset, imbalance = condition.split()
    scale = QUICK if quick else FULL
    start = _start(seed, scale)
    lightning.seed_everything(seed, verbose=False)
    data = ExpressionData(
        "digits" if dataset == "digits" else "faces", image_size=scale.image_size,
        imbalance=float(imbalance), largest=scale.largest, batch_size=scale.batch_size,
        test_per_class=scale.digits_per_class if dataset == "digits" else scale.test_per_class,
        settings=FACES, augment=AUGMENT, seed=seed,
    )  # fmt: skip
    task = ExpressionTask(
        "resnet", NETWORK, scale.image_size, num_classes=10 if dataset == "digits" else 7,
        epsilon=EPSILON, **METHODS[method],
        optimization=Optimization(
            lr=RATE, weight_decay=0.01, warmup_steps=20, warmup_jump=False
        ),
    )  # fmt: skip
    task.network.backbone.load_state_dict(start)
    # A quarter faster; torch's stubs lack the argument.
    task.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    found = evaluate(task, data, steps=scale.steps)
    recalls = torch.tensor([found[f"test/recall/{name}"] for name in data.class_names])
    shares = data.class_counts / data.class_counts.sum()
    return {
        "mean_accuracy": found["test/mean_accuracy"],
        "overall_accuracy": float(recalls @ shares),
        "rarest": float(recalls[data.class_counts.argmin()]),
    }


@functools.lru_cache(1)
def _start(seed: int, scale: Scale) -> dict[str, Tensor]:
    """The methods of a seed start from the same backbone."""
    return landmark_start(
        lambda: ResNet(**NETWORK), scale.image_size, FACES, seed, images=scale.start_images,
        steps=scale.start_steps, rate=4e-3, batch_size=scale.batch_size,
    )  # fmt: skip


def comparison(quick: bool = False) -> Comparison:
    """The methods at imbalance factors 10, 50 and 100 of faces, and 50 of digits.

    Test splits have as many images of every class, so that rare classes are measured as well as
    frequent ones. Overall accuracy weights their recalls by the sizes of the training classes.
    """
    conditions = {f"faces {f}": f"made-up faces, imbalance {f}" for f in (10, 50, 100)}
    conditions["digits 50"] = "digits, imbalance 50"
    if quick:
        conditions = {"faces 10": conditions["faces 10"]}
    return Comparison(
        title="Recognition with unequal classes",
        methods=_LABELS,
        conditions=conditions,
        metrics={
            "mean_accuracy": "mean accuracy",
            "overall_accuracy": "overall accuracy",
            "rarest": "recall of the rarest class",
        },
        measure=measure,
        ours="both",
        baselines=("cross_entropy", "weighted", "focal", "logit_adjustment", "rsl", "rac"),
        settings={
            **asdict(QUICK if quick else FULL), "epsilon": EPSILON, "lambda": LAMBDA,
            "learning_rate": RATE, "weights": "mek", "network": NETWORK, "faces": asdict(FACES),
            "augment": asdict(AUGMENT), "start": "landmarks of other made-up faces",
        },
        seeds=5,
        quick=quick,
    )  # fmt: skip
