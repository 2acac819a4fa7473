"""The published protocols, from what was predicted for a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from facekernels.data.labels import ATTRIBUTES
from facekernels.metrics import (
    TemplatePairs,
    epsilon_error,
    mean_absolute_error,
    pair_distances,
    tar_at_far,
    template_verification,
    top_k_accuracy,
    verify,
)
from facekernels.metrics.ijbc import FALSE_ACCEPT_RATES
from facekernels.systems.swinface.losses import NOT_LABELLED
from facekernels.systems.swinface.model import SwinFace

FARS = (1e-3, 1e-2, 1e-1)


@torch.inference_mode()
def predictions(network: SwinFace, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the protocols need of one batch, on the CPU.

    A batch of pairs (``[B, 6, S, S]``, two images side by side, with ``"same"``) gives their
    squared distances, one of IJB-C (with ``"template"``) features that are weighed by the
    detector's ``"score"``; each image's embedding is added to its mirror's, as published. Any other
    batch gives ``"Age"``, ``"Expression"`` and the attributes' logits.
    """
    images = batch["image"]
    labels = {k: v.cpu() for k, v in batch.items() if k != "image"}
    if "same" in batch:
        first, second = _embeddings(network, torch.cat(images.chunk(2, 1))).chunk(2)
        return labels | {"distance": pair_distances(first, second).cpu()}
    if "template" in batch:
        return labels | {"feature": _embeddings(network, images).cpu() * labels["score"][:, None]}
    if not network.tasks:
        return labels
    answers = network.analyse(network.backbone.forward_taps(images))
    return labels | {task: v.float().cpu() for task, v in answers.items()}


def scores(found: Mapping[str, Tensor], pairs: TemplatePairs | None = None) -> dict[str, float]:
    """Metrics of a split from its concatenated `predictions`; for the tasks it has labels for.

    Verification accuracy over ten folds and TAR at false accept rates; mean absolute error of the
    age, share within ten years, and epsilon error where ``"age_std"`` is given; accuracy of the
    gender; mean of the attributes' accuracies, gender included; top-1 and top-5 accuracy of the
    expression.

    Args:
        found: from `predictions`, all rows.
        pairs: of templates, for the features of IJB-C.
    """
    if "distance" in found:
        distance, same = found["distance"], found["same"]
        tars = _tars(FARS, tar_at_far(-distance, same, FARS))
        return {"verification": verify(distance, same).accuracy, **tars}
    if pairs is not None:
        rates = template_verification(found["feature"], found["template"], found["medium"], pairs)
        return _tars(FALSE_ACCEPT_RATES, rates)
    return _age(found) | _attributes(found) | _expression(found)


def attribute_accuracies(found: Mapping[str, Tensor]) -> dict[str, float]:
    """Accuracy of every attribute that was answered and has labels, by name."""
    accuracies = {}
    for column, name in enumerate(ATTRIBUTES):
        if name not in found or "attributes" not in found:
            continue
        labels = found["attributes"][:, column]
        known = labels != NOT_LABELLED
        if bool(known.any()):
            right = found[name][known].argmax(1) == labels[known]
            accuracies[name] = float(right.double().mean())
    return accuracies


def _embeddings(network: SwinFace, images: Tensor) -> Tensor:
    """Of the images, added to those of their mirrors."""
    return network.backbone(images).float() + network.backbone(images.flip(-1)).float()


def _tars(fars: Sequence[float], rates: Sequence[float]) -> dict[str, float]:
    return {f"tar@far={far:g}": rate for far, rate in zip(fars, rates, strict=True)}


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
    accuracies = attribute_accuracies(found)
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
    logits, labels = found["Expression"][known], found["expression"][known]
    return {
        "expression": top_k_accuracy(logits, labels, 1),
        "expression_top5": top_k_accuracy(logits, labels, 5),
    }
