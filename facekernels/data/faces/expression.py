"""Expressions as activations of facial muscles, after the Facial Action Coding System.

| class | action units |
|---|---|
| Surprise | 1, 2, 5, 26 |
| Fear | 1, 2, 4, 5, 20, 26 |
| Disgust | 4, 7, 9, 10, 15, 17 |
| Happy | 6, 12, 25 |
| Sad | 1, 4, 15, 17, 43 |
| Anger | 4, 5, 7, 23 |
| Neutral | none |

Source: Ekman and Friesen, Facial Action Coding System, 1978; the combinations are those commonly
given for the basic emotions, the weights are our own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from facekernels.data.faces import random
from facekernels.data.faces.settings import Settings
from facekernels.data.labels import EXPRESSIONS

ACTION_UNITS: dict[str, str] = {
    "AU1": "inner brow raiser",
    "AU2": "outer brow raiser",
    "AU4": "brow lowerer",
    "AU5": "upper lid raiser",
    "AU6": "cheek raiser",
    "AU7": "lid tightener",
    "AU9": "nose wrinkler",
    "AU10": "upper lip raiser",
    "AU12": "lip corner puller",
    "AU15": "lip corner depressor",
    "AU17": "chin raiser",
    "AU20": "lip stretcher",
    "AU23": "lip tightener",
    "AU25": "lips part",
    "AU26": "jaw drop",
    "AU43": "eyes drooping",
}
"""Number and name of the columns of `FaceParameters.activations`."""

UNITS: tuple[str, ...] = tuple(ACTION_UNITS)

PATTERNS: dict[str, dict[str, float]] = {
    "Surprise": {"AU1": 1.0, "AU2": 1.0, "AU5": 1.0, "AU26": 1.0},
    "Fear": {"AU1": 1.0, "AU2": 0.4, "AU4": 0.6, "AU5": 0.9, "AU20": 1.0, "AU25": 0.4, "AU26": 0.3},
    "Disgust": {"AU4": 0.5, "AU7": 0.6, "AU9": 1.0, "AU10": 1.0, "AU15": 0.4, "AU17": 0.4},
    "Happy": {"AU6": 0.9, "AU12": 1.0, "AU25": 0.6},
    "Sad": {"AU1": 1.0, "AU4": 0.35, "AU15": 1.0, "AU17": 0.5, "AU43": 0.7},
    "Anger": {"AU4": 1.0, "AU5": 0.3, "AU7": 0.6, "AU23": 1.0},
    "Neutral": {},
}
"""Activation of each class at intensity 1."""

NEIGHBOURS: dict[str, str] = {
    "Surprise": "Fear", "Fear": "Surprise", "Disgust": "Anger", "Anger": "Disgust",
    "Sad": "Neutral", "Neutral": "Sad", "Happy": "Neutral",
}  # fmt: skip
"""The class that ambiguity moves a sample towards."""

_PATTERN = torch.tensor([[PATTERNS[c].get(u, 0.0) for u in UNITS] for c in EXPRESSIONS])
_NEIGHBOUR = torch.tensor([EXPRESSIONS.index(NEIGHBOURS[c]) for c in EXPRESSIONS])


def activations(
    expression: Tensor, intensity: Tensor, blend: Tensor, key: Tensor, settings: Settings
) -> Tensor:
    """``[n, 2, 16]`` in [0, 1.5]: image-left and image-right activation of `UNITS`.

    Args:
        expression: ``[n]`` classes.
        intensity: ``[n]``.
        blend: ``[n]``, the share of the neighbour class.
        key: ``[n]`` of the samples.
        settings: muscle_noise, mouth_open and asymmetry.
    """
    own, other = _PATTERN[expression], _PATTERN[_NEIGHBOUR[expression]]
    pattern = (own + blend[:, None] * (other - own)) * intensity[:, None]
    sides = []
    for column, unit in enumerate(UNITS):
        # Active muscles vary in proportion; idle ones twitch a little.
        size = 0.3 + pattern[:, column]
        value = pattern[:, column] + settings.muscle_noise * size * random.bell(key, unit)
        if unit == "AU25":
            speaks = random.chance(key, "speaks", settings.mouth_open)
            value = value + speaks * random.uniform(key, "speech", 0.4, 0.8)
        tilt = settings.asymmetry * random.bell(key, f"{unit}.tilt")
        sides.append(torch.stack([value * (1 - tilt), value * (1 + tilt)], 1))
    return torch.stack(sides, 2).clamp_(0.0, 1.5)
