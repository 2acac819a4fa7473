"""One network for all tasks against single-task networks, and with against without channel
attention, on made-up faces.
"""

from __future__ import annotations

from typing import Any

import lightning

from facekernels.data import faces
from facekernels.data.batch_augment import BatchAugment
from facekernels.systems.common.comparison import Comparison
from facekernels.systems.common.schedule import Optimization
from facekernels.systems.common.training import evaluate
from facekernels.systems.swinface.data import SOURCES, SwinFaceData
from facekernels.systems.swinface.labels import TASKS
from facekernels.systems.swinface.model import SwinFace
from facekernels.systems.swinface.task import SwinFaceTask

STEPS = 800
SIZE = 64
PART = 16
"""Images of each source per step: the single-task networks see as many of theirs."""

NETWORK: dict[str, Any] = {
    "image_size": SIZE, "patch_size": 4, "window_size": 4, "embed_dim": 32, "depths": (1, 2, 1),
    "num_heads": (2, 4, 8), "drop_path_rate": 0.05, "embedding_dim": 64,
    "level_channels": (16, 24, 24), "dropout": 0.2,
}  # fmt: skip

FACES = faces.Settings(yaw=5, pitch=3, roll=3, shift=0.02, light=(0, 0.1), intensity=(1, 1.3),
                       muscle_noise=0.05, background="plain")  # fmt: skip
AUGMENT = BatchAugment(rotate=0, scale=0, shift=0.02, jitter=0.2, erase=0)
"""Nearly frontal faces with plain backgrounds, changed little: learnt in minutes."""

_ATTRIBUTES = [t for t in TASKS if t not in ("Age", "Expression")]
SINGLE: dict[str, dict[str, Any]] = {
    "recognition": {"tasks": [], "source": "recognition"},
    "age": {"tasks": ["Age"], "source": "age_gender"},
    "attributes": {"tasks": _ATTRIBUTES, "source": "attributes"},
    "expression": {"tasks": ["Expression"], "source": "expression"},
}
"""The single-task networks: what each answers and the part of the batch it is trained on."""

_METRICS = {
    "verification": "verification accuracy",
    "age": "age within 10 years",
    "attributes": "accuracy of the 40 attributes",
    "expression": "expression accuracy",
}


def measure(condition: str, method: str, seed: int, quick: bool) -> dict[str, float]:
    """Train `method` with data and start of `seed`."""
    if method == "single":
        found: dict[str, float] = {}
        for part in SINGLE.values():
            found |= _train(part["tasks"], {part["source"]: PART}, True, seed, quick)
        return found
    parts = dict.fromkeys(SOURCES, PART)
    return _train(None, parts, method == "attention", seed, quick)


def _train(
    tasks: list[str] | None, parts: dict[str, int], attention: bool, seed: int, quick: bool
) -> dict[str, float]:
    """The metrics that a network for `tasks`, trained on `parts` of the batch, has."""
    lightning.seed_everything(seed, verbose=False)
    network = SwinFace(**NETWORK, tasks=tasks, channel_attention=attention)
    sizes: dict[str, Any] = dict.fromkeys(SOURCES, 0) | parts
    data = SwinFaceData(
        image_size=SIZE, identities=10 if quick else 100, images_per_identity=5 if quick else 20,
        source_size=50 if quick else 2000, eval_size=40 if quick else 500,
        eval_pairs=40 if quick else 600, settings=FACES, augment=AUGMENT, seed=seed, **sizes,
    )  # fmt: skip
    task = SwinFaceTask(
        network, scale=16.0, margins=(1.0, 0.0, 0.2), backbone_rate=1.0, age_start=40.0,
        optimization=Optimization(lr=1e-3, warmup_steps=30, warmup_jump=False),
    )  # fmt: skip
    found = evaluate(task, data, steps=5 if quick else STEPS)
    chosen = {}
    if "recognition" in parts:
        chosen["verification"] = found["test/pairs/verification"]
    if "Age" in network.tasks:
        chosen["age"] = found["test/faces/age_within_10"]
    for name in ("attributes", "expression"):
        if f"test/faces/{name}" in found and name in parts:
            chosen[name] = found[f"test/faces/{name}"]
    return chosen


def comparison(quick: bool = False) -> Comparison:
    """Multi-task with attention against single-task networks and against no attention."""
    return Comparison(
        title="SwinFace on made-up faces",
        methods={
            "attention": "multi-task, channel attention (the method)",
            "plain": "multi-task, no channel attention",
            "single": "four single-task networks",
        },
        conditions={"faces": "made-up faces, 64 pixels"},
        metrics=_METRICS,
        measure=measure,
        ours="attention",
        baselines=("plain", "single"),
        settings={
            "steps": STEPS, "images_per_source_and_step": PART, "network": NETWORK,
            "identities": 100, "images_per_identity": 20, "images_of_other_sources": 2000,
        },
        seeds=3,
        quick=quick,
        decided_by=tuple(_METRICS),
    )  # fmt: skip
