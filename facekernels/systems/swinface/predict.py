"""What SwinFace sees in faces, in words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from facekernels.data.labels import EXPRESSIONS
from facekernels.systems.common.picture import as_input, beside

if TYPE_CHECKING:
    from facekernels.systems.swinface.model import SwinFace

_SHOWN = 0.5


@dataclass(frozen=True)
class FaceAnalysis:
    """One face. What the network was not made to answer is None or absent."""

    age: float | None
    """Years."""
    gender: str | None
    """``"Male"`` or ``"Female"``."""
    gender_probability: float | None
    """Of the gender said."""
    expression: str | None
    """The most probable of `facekernels.data.labels.EXPRESSIONS`."""
    expression_probabilities: dict[str, float]
    """Of all seven."""
    attributes: dict[str, tuple[bool, float]]
    """Name: whether the face has it, and the probability that it has; all but the gender."""
    embedding: Tensor
    """``[D]``, as the network gives it."""

    @property
    def identity(self) -> Tensor:
        """``[D]`` of length 1: the dot product of two faces' says how alike they are."""
        return F.normalize(self.embedding, dim=0)

    def lines(self) -> list[str]:
        """A few lines of text."""
        said = []
        if self.age is not None:
            said.append(f"age {self.age:.0f}")
        if self.gender is not None and self.gender_probability is not None:
            said.append(f"{self.gender} ({100 * self.gender_probability:.0f} %)")
        if self.expression is not None:
            probability = self.expression_probabilities[self.expression]
            said.append(f"{self.expression} ({100 * probability:.0f} %)")
        return said + [f"{name} ({100 * p:.0f} %)"
                       for name, (has, p) in self.attributes.items() if has]  # fmt: skip

    def __str__(self) -> str:
        return ", ".join(self.lines())


@torch.inference_mode()
def predict(network: SwinFace, images: Tensor) -> list[FaceAnalysis]:
    """Analyse aligned face crops.

    Args:
        network: in evaluation mode.
        images: ``[B, 3, H, W]`` RGB, uint8 or float in [0, 1], of any size: the central square,
            resized to the network's.

    Raises:
        TypeError: the images are neither uint8 nor floating point.
        ValueError: they are not ``[B, 3, H, W]``.
    """
    taps = network.backbone.forward_taps(as_input(images, network.image_size))
    embeddings = network.backbone.embed(taps[-1])
    answers = network.analyse(taps) if network.tasks else {}
    probabilities = {t: v.softmax(1) for t, v in answers.items() if t != "Age"}
    return [
        _analysis({t: v[i] for t, v in probabilities.items()},
                  float(answers["Age"][i]) if "Age" in answers else None, embedding)
        for i, embedding in enumerate(embeddings)
    ]  # fmt: skip


def draw(image: Tensor, analysis: FaceAnalysis) -> Any:
    """A PIL image: the face ``[3, H, W]`` uint8 with the answers beside it."""
    return beside(image, analysis.lines())


def load(path: str | Path) -> SwinFace:
    """The network of a training's checkpoint, or of a published file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or of another system or format.
    """
    from facekernels.systems.common.checkpoint import build_network, read_checkpoint
    from facekernels.systems.swinface.checkpoint import load_published
    from facekernels.systems.swinface.model import FORMAT, SYSTEM, SwinFace

    loaded = read_checkpoint(path)
    if "state_dict_backbone" in loaded:
        return load_published(path)
    return build_network(SwinFace, loaded, path, SYSTEM, FORMAT)


def _analysis(
    probabilities: dict[str, Tensor], age: float | None, embedding: Tensor
) -> FaceAnalysis:
    gender = probabilities.pop("Gender", None)
    expression = probabilities.pop("Expression", None)
    named = {} if expression is None else dict(zip(EXPRESSIONS, expression.tolist(), strict=True))
    return FaceAnalysis(
        age=age,
        gender=None if gender is None else ("Male" if gender[1] > _SHOWN else "Female"),
        gender_probability=None if gender is None else float(gender.max()),
        expression=max(named, key=named.__getitem__) if named else None,
        expression_probabilities=named,
        attributes={t: (float(p[1]) > _SHOWN, float(p[1])) for t, p in probabilities.items()},
        embedding=embedding,
    )
