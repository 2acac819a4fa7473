"""Draws the contact sheets of docs/data/faces.md: python -m tools.face_sheet [FOLDER]."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad

from facekernels.data import faces
from facekernels.data.labels import ATTRIBUTES

STILL = faces.Settings(yaw=0, pitch=0, roll=0, shift=0, zoom=(1, 1), light=(0, 0), blurry=0,
                       accessories=0, muscle_noise=0, mouth_open=0)  # fmt: skip
MALE = ("Gender", "Sideburns", "Five O'Clock Shadow", "Mustache", "Goatee", "No Beard", "Bald",
        "Receding Hairline", "Wearing Necktie")  # fmt: skip
HAPPY, NEUTRAL = 3, 6


def plain(p: faces.FaceParameters, keep: bool = False) -> faces.FaceParameters:
    """The same light grey behind everybody, and, unless kept, nothing random on the cheeks."""
    background = torch.zeros_like(p.background)
    background[:, :6] = torch.tensor([0.86, 0.88, 0.90, 0.86, 0.88, 0.90])
    p = p.replace(background=background, clothes=torch.full_like(p.clothes, 0.45))
    return p if keep else faces.set_attributes(p, {"Bags Under Eyes": False, "Rosy Cheeks": False})


def draw(p: faces.FaceParameters, columns: int, size: int) -> Tensor:
    """``[3, H, W]`` with a white line between pictures; their number is a multiple of columns."""
    rows = pad(faces.render(p, size).images, (2, 2, 2, 2), value=1.0).split(columns)
    return torch.cat([torch.cat(list(row), 2) for row in rows], 1)


def expressions(size: int) -> Tensor:
    """Persons of several ages; columns in the order of labels.EXPRESSIONS."""
    identity = torch.arange(6).repeat_interleave(7) + 20
    ages = torch.tensor([8.0, 25.0, 32.0, 45.0, 60.0, 75.0]).repeat_interleave(7)
    p = faces.sample(42, 1, STILL, identity, torch.arange(7).repeat(6), ages, intensities=1.0)
    return draw(plain(p), 7, size)


def free(size: int) -> Tensor:
    """As the default settings draw."""
    return draw(faces.sample(40, 3), 10, size)


def ages(size: int) -> Tensor:
    """3 to 80 years of three persons."""
    years = torch.tensor([3.0, 8, 14, 20, 30, 40, 50, 60, 70, 80])
    identity = torch.tensor([3, 7, 11]).repeat_interleave(len(years))
    p = faces.sample(len(identity), 2, STILL, identity, NEUTRAL, years.repeat(3))
    return draw(plain(p), len(years), size)


def attributes(size: int) -> Tensor:
    """Pairs, without and with, in the order of labels.ATTRIBUTES."""
    pairs = []
    for name in ATTRIBUTES:
        man = name in MALE
        p = faces.sample(1, 5, STILL, 11 if man else 15, NEUTRAL, 35.0)
        p = faces.set_attributes(p, {"Gender": man, "Bald": False, "Double Chin": False,
                                     "Narrow Eyes": False, "Big Nose": False,
                                     "High Cheekbones": False, "Wavy Hair": False, "Bangs": False,
                                     "Brown Hair": True, "Rosy Cheeks": False})  # fmt: skip
        if man:
            p = faces.set_attributes(p, {"Mustache": False, "No Beard": True})
        pairs += [faces.set_attribute(p, name, value) for value in (False, True)]
    return draw(plain(faces.concatenate(pairs), keep=True), 10, size)


def poses(size: int) -> Tensor:
    """Yaw in columns, pitch in rows, then light from left to right."""
    angles = [[y, p, 0.0] for p in (-25.0, 0.0, 25.0) for y in (-45.0, -30, -15, 0, 15, 30, 45)]
    turned = faces.sample(21, 4, STILL, 5, HAPPY, 30.0, poses=torch.tensor(angles))
    lit = faces.sample(7, 4, STILL, 8, NEUTRAL, 30.0)
    x = torch.linspace(-1, 1, 7)
    above = -(1 - x * x).clamp(min=0).sqrt()
    lit = lit.replace(light=torch.stack([x, above, torch.full((7,), 0.8)], 1))
    return draw(plain(faces.concatenate([turned, lit])), 7, size)


def occluders(size: int) -> Tensor:
    """Bar, mask, hand, patch: five of each."""
    p = faces.sample(20, 6, faces.Settings(occlusion=1.0), expressions=HAPPY)
    return draw(p.replace(occluder=torch.arange(4).repeat_interleave(5) + 1), 10, size)


def ambiguity(size: int) -> Tensor:
    """From each class to its neighbour."""
    label = torch.tensor([0, 1, 5, 2, 6, 4, 3]).repeat_interleave(7)
    p = faces.sample(49, 7, STILL, 31, label, 30.0, intensities=1.0)
    blend = torch.linspace(0, 1, 7).repeat(7)
    muscles = faces.activations(label, p.intensity, blend, p.key, STILL)
    p = faces.set_attribute(p.replace(activations=muscles, blend=blend), "Bangs", False)
    return draw(plain(p), 7, size)


SHEETS = (expressions, free, ages, attributes, poses, occluders, ambiguity)


def main(folder: Path, size: int = 96) -> None:
    """Write faces-NAME.png of every sheet."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for sheet in SHEETS:
        pixels = faces.to_uint8(sheet(size)).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"faces-{sheet.__name__}.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs/images"))
