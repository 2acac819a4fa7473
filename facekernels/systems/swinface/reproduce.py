"""One network for all tasks against single-task networks, and with against without channel
attention, on made-up faces.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from typing import Any

import lightning
from torch import Tensor

from facekernels.data import faces
from facekernels.data.batch_augment import BatchAugment
from facekernels.systems.common.comparison import Comparison
from facekernels.systems.common.landmark_start import landmark_start
from facekernels.systems.common.schedule import Optimization
from facekernels.systems.common.training import evaluate
from facekernels.systems.swinface.data import SOURCES, SwinFaceData
from facekernels.systems.swinface.labels import TASKS
from facekernels.systems.swinface.model import SwinFace
from facekernels.systems.swinface.task import SwinFaceTask

SIZE = 64


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    steps: int = 300
    per_source: int = 16
    """Images of each source per step: the single-task networks see as many of theirs."""
    identities: int = 100
    images_per_identity: int = 20
    source_size: int = 2000
    eval_size: int = 500
    eval_pairs: int = 600
    start_images: int = 4000
    start_steps: int = 600


FULL = Scale()
QUICK = Scale(steps=5, identities=10, images_per_identity=5, source_size=50, eval_size=40,
              eval_pairs=40, start_images=64, start_steps=5)  # fmt: skip

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
    scale = QUICK if quick else FULL
    if method == "single":
        found: dict[str, float] = {}
        for part in SINGLE.values():
            found |= _train(part["tasks"], (part["source"],), True, seed, scale)
        return found
    return _train(None, SOURCES, method == "attention", seed, scale)


@functools.lru_cache(1)
def _start(seed: int, scale: Scale) -> dict[str, Tensor]:
    """The networks of a seed start from the same backbone."""
    return landmark_start(
        lambda: SwinFace(**NETWORK).backbone, SIZE, FACES, seed, images=scale.start_images,
        steps=scale.start_steps, rate=1e-3,
    )  # fmt: skip


def _train(
    tasks: list[str] | None, parts: tuple[str, ...], attention: bool, seed: int, scale: Scale
) -> dict[str, float]:
    """The metrics that a network for `tasks`, trained on `parts` of the batch, has."""
    start = _start(seed, scale)
    lightning.seed_everything(seed, verbose=False)
    network = SwinFace(**NETWORK, tasks=tasks, channel_attention=attention)
    network.backbone.load_state_dict(start)
    sizes: dict[str, Any] = {name: scale.per_source * (name in parts) for name in SOURCES}
    data = SwinFaceData(
        image_size=SIZE, identities=scale.identities,
        images_per_identity=scale.images_per_identity, source_size=scale.source_size,
        eval_size=scale.eval_size, eval_pairs=scale.eval_pairs, settings=FACES, augment=AUGMENT,
        seed=seed, **sizes,
    )  # fmt: skip
    task = SwinFaceTask(
        network, scale=16.0, margins=(1.0, 0.0, 0.2), backbone_rate=1.0, age_start=40.0,
        optimization=Optimization(lr=1e-3, warmup_steps=30, warmup_jump=False),
    )  # fmt: skip
    found = evaluate(task, data, steps=scale.steps)
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
            **asdict(QUICK if quick else FULL), "network": NETWORK, "faces": asdict(FACES),
            "augment": asdict(AUGMENT), "learning_rate": 1e-3,
            "start": "landmarks of other made-up faces",
        },
        seeds=3,
        quick=quick,
        decided_by=tuple(_METRICS),
    )  # fmt: skip
