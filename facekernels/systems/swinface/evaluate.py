"""The published protocols, from what was predicted for a split."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from facekernels.data.labels import ATTRIBUTES
from facekernels.metrics import (
    epsilon_error,
    mean_absolute_error,
    pair_distances,
    tar_at_far,
    top_k_accuracy,
    verify,
)
from facekernels.systems.swinface.losses import NOT_LABELLED
from facekernels.systems.swinface.model import SwinFace

FARS = (1e-3, 1e-2, 1e-1)


@torch.inference_mode()
def predictions(network: SwinFace, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the protocols need of one batch, on the CPU.

    A batch of pairs (``[B, 6, S, S]``, two images side by side, with ``"same"``) gives their
    squared distances; each image's embedding is added to its mirror's, as published. Any other
    batch gives ``"Age"``, ``"Expression"`` and the attributes' logits.
    """
    images = batch["image"]
    if "same" in batch:
        both = torch.cat(images.chunk(2, 1))
        embedding = network.backbone(both).float() + network.backbone(both.flip(-1)).float()
        first, second = embedding.chunk(2)
        return {"distance": pair_distances(first, second).cpu(), "same": batch["same"].cpu()}
    labels = {k: v.cpu() for k, v in batch.items() if k != "image"}
    if not network.tasks:
        return labels
    answers = network.analyse(network.backbone.forward_taps(images))
    return labels | {task: v.float().cpu() for task, v in answers.items()}


def scores(found: Mapping[str, Tensor]) -> dict[str, float]:
    """Metrics of a split from its concatenated `predictions`; for the tasks it has labels for.

    Verification accuracy over ten folds and TAR at false accept rates; mean absolute error of the
    age, share within ten years, and epsilon error where ``"age_std"`` is given; accuracy of the
    gender; mean of the attributes' accuracies, gender included; accuracy of the expression.
    """
    if "distance" in found:
        distance, same = found["distance"], found["same"]
        tars = tar_at_far(-distance, same, FARS)
        return {
            "verification": verify(distance, same).accuracy,
            **{f"tar@far={far:g}": tar for far, tar in zip(FARS, tars, strict=True)},
        }
    return _age(found) | _attributes(found) | _expression(found)


def _age(found: Mapping[str, Tensor]) -> dict[str, float]:
    if "Age" not in found or "age" not in found:
        return {}
    known = ~found["age"].isnan()
    if not bool(known.any()):
        return {}
    predicted, age = found["Age"][known, 0], found["age"][known]
    near = (predicted - age).abs() <= 10
    result = {
        "age_mae": mean_absolute_error(predicted, age),
        "age_within_10": float(near.double().mean()),
    }
    if "age_std" in found:
        result["age_epsilon"] = epsilon_error(predicted, age, found["age_std"][known])
    return result


def _attributes(found: Mapping[str, Tensor]) -> dict[str, float]:
    accuracies = {}
    for column, name in enumerate(ATTRIBUTES):
        if name not in found or "attributes" not in found:
            continue
        labels = found["attributes"][:, column]
        known = labels != NOT_LABELLED
        if bool(known.any()):
            right = found[name][known].argmax(1) == labels[known]
            accuracies[name] = float(right.double().mean())
    result = {}
    if "Gender" in accuracies:
        result["gender"] = accuracies["Gender"]
    if accuracies:
        result["attributes"] = sum(accuracies.values()) / len(accuracies)
    return result


def _expression(found: Mapping[str, Tensor]) -> dict[str, float]:
    if "Expression" not in found or "expression" not in found:
        return {}
    known = found["expression"] != NOT_LABELLED
    if not bool(known.any()):
        return {}
    return {"expression": top_k_accuracy(found["Expression"][known], found["expression"][known], 1)}
