"""The 40 attributes: how often each is drawn, what excludes what, and how to change one.

Most are properties of the person (facial features, colours) or of the picture (glasses, makeup).
Four follow from other factors: Young is an age below 40; Smiling is a lip corner puller (AU12) of
0.3 or more; Mouth Slightly Open is parted lips or a dropped jaw (AU25, AU26) of 0.3 or more;
Attractive, by convention, is smooth skin (roughness below 0.4), an age below 55 and a left and
right half whose muscles differ by less than 0.25. Blurry is a blur of 1.5 percent of the side.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from facekernels import _check
from facekernels.data.faces import random
from facekernels.data.faces.expression import UNITS
from facekernels.data.faces.parameters import FaceParameters
from facekernels.data.faces.settings import Settings
from facekernels.data.labels import ATTRIBUTES

YOUNG = 40.0
SMILE = 0.3
OPEN = 0.3
SMOOTH = 0.4
BLURRY = 0.015
HAIR_COLOURS = ("Black Hair", "Blond Hair", "Brown Hair", "Gray Hair")

_AU12, _AU25, _AU26 = (UNITS.index(unit) for unit in ("AU12", "AU25", "AU26"))
_BEARDS = ("Goatee", "Five O'Clock Shadow")
_HAIR = (*HAIR_COLOURS, "Straight Hair", "Wavy Hair", "Bangs", "Receding Hairline")
_CLEARS: dict[str, tuple[str, ...]] = {
    **{c: (*(o for o in HAIR_COLOURS if o != c), "Bald") for c in HAIR_COLOURS},
    "Straight Hair": ("Wavy Hair", "Bald"),
    "Wavy Hair": ("Straight Hair", "Bald"),
    "Bangs": ("Receding Hairline", "Bald"),
    "Receding Hairline": ("Bangs", "Bald"),
    "Bald": _HAIR,
    "Oval Face": ("Chubby",),
    "Chubby": ("Oval Face",),
    "Big Nose": ("Pointy Nose",),
    "Pointy Nose": ("Big Nose",),
    "No Beard": _BEARDS,
    "Gender": ("Heavy Makeup", "Wearing Lipstick"),
    **dict.fromkeys(_BEARDS, ("No Beard",)),
}
"""What becomes false where an attribute becomes true."""


def _ramp(x: Tensor, start: float, end: float) -> Tensor:
    """0 at `start`, 1 at `end`, linear between."""
    return ((x - start) / (end - start)).clamp(0.0, 1.0)


def draw(identity: Tensor, sample: Tensor, shape: FaceParameters, settings: Settings) -> Tensor:
    """``[n, 40]`` bool.

    Args:
        identity: ``[n]`` keys of the persons: their features, and when hair turns grey or thin.
        sample: ``[n]`` keys of the pictures: what is worn.
        shape: everything but the attributes is read from it.
        settings: accessories.
    """
    age = shape.age
    has: dict[str, Tensor] = {}

    def person(name: str, probability: Tensor | float) -> Tensor:
        return random.chance(identity, name, probability)

    def worn(name: str, probability: Tensor | float) -> Tensor:
        return random.chance(sample, name, probability * settings.accessories)

    def by_gender(male: float, female: float) -> Tensor:
        return torch.where(has["Gender"], male, female)

    adult, teen = age >= 18, age >= 13
    has["Gender"] = person("Gender", 0.5)
    man, woman = has["Gender"] & adult, ~has["Gender"] & teen

    has["Chubby"] = person("Chubby", 0.12)
    has["Oval Face"] = person("Oval Face", 0.3) & ~has["Chubby"]
    has["Double Chin"] = person(
        "Double Chin", 0.06 + 0.4 * has["Chubby"] + 0.1 * _ramp(age, 40, 80)
    )
    has["Pale Skin"] = person("Pale Skin", 0.25) & (shape.named("skin_tone") < 0)
    has["High Cheekbones"] = person("High Cheekbones", 0.3)
    has["Arched Eyebrows"] = person("Arched Eyebrows", by_gender(0.1, 0.4))
    has["Bushy Eyebrows"] = person("Bushy Eyebrows", by_gender(0.35, 0.1))
    has["Narrow Eyes"] = person("Narrow Eyes", 0.15)
    has["Big Nose"] = person("Big Nose", 0.22)
    has["Pointy Nose"] = person("Pointy Nose", 0.25) & ~has["Big Nose"]
    has["Big Lips"] = person("Big Lips", 0.22)

    # A person's threshold is fixed, so hair only gets greyer and thinner with age.
    bald = man & person("Bald", 0.45 * _ramp(age, 28, 80))
    has["Bald"] = bald
    has["Receding Hairline"] = man & ~bald & person("Receding", 0.7 * _ramp(age, 25, 70))
    has["Bangs"] = ~bald & ~has["Receding Hairline"] & person("Bangs", by_gender(0.12, 0.35))
    grey = ~bald & person("Gray", _ramp(age, 40, 78))
    colour, texture = random.uniform(identity, "colour"), random.uniform(identity, "texture")
    has["Gray Hair"] = grey
    dyed = ~bald & ~grey
    has["Black Hair"] = dyed & (colour < 0.32)
    has["Brown Hair"] = dyed & (colour >= 0.32) & (colour < 0.64)
    has["Blond Hair"] = dyed & (colour >= 0.64) & (colour < 0.86)
    has["Straight Hair"] = ~bald & (texture < 0.3)
    has["Wavy Hair"] = ~bald & (texture >= 0.3) & (texture < 0.65)

    style = random.uniform(identity, "beard")
    unshaven = man & ~random.chance(sample, "shaven", 0.25)
    has["Five O'Clock Shadow"] = unshaven & (style < 0.17)
    has["Goatee"] = unshaven & (style >= 0.17) & (style < 0.32)
    has["No Beard"] = ~(unshaven & (style < 0.5))
    has["Mustache"] = unshaven & person("Mustache", 0.25)
    has["Sideburns"] = man & person("Sideburns", 0.25)

    has["Bags Under Eyes"] = adult & random.chance(sample, "bags", 0.08 + 0.4 * _ramp(age, 30, 80))
    has["Heavy Makeup"] = woman & worn("makeup", 0.35)
    has["Wearing Lipstick"] = woman & worn("lipstick", 0.2 + 0.6 * has["Heavy Makeup"])
    has["Rosy Cheeks"] = random.chance(sample, "rosy", by_gender(0.08, 0.25))
    has["Eyeglasses"] = worn("glasses", 0.15 + 0.25 * _ramp(age, 40, 70))
    has["Wearing Hat"] = worn("hat", 0.1)
    has["Wearing Earrings"] = worn("earrings", by_gender(0.05, 0.4))
    has["Wearing Necklace"] = worn("necklace", by_gender(0.05, 0.35))
    has["Wearing Necktie"] = man & ~has["Wearing Necklace"] & worn("necktie", 0.3)

    has["Blurry"] = shape.blur >= BLURRY
    has |= _following(shape)
    return torch.stack([has[name] for name in ATTRIBUTES], 1)


def _following(p: FaceParameters) -> dict[str, Tensor]:
    muscles = p.activations.mean(1)
    uneven = (p.activations[:, 0] - p.activations[:, 1]).abs().amax(1)
    return {
        "Young": p.age < YOUNG,
        "Smiling": muscles[:, _AU12] >= SMILE,
        "Mouth Slightly Open": torch.maximum(muscles[:, _AU25], muscles[:, _AU26]) >= OPEN,
        "Attractive": (p.roughness < SMOOTH) & (p.age < 55) & (uneven < 0.25),
    }


def set_attribute(p: FaceParameters, name: str, value: bool | Tensor) -> FaceParameters:
    """A copy in which one attribute is `value`, with everything that has to change with it.

    A hair colour replaces the other one, a beard needs no shave, Gender false (female) shaves,
    Young moves the age to 25 or 60 where it is on the other side, Smiling and Mouth Slightly Open
    move muscles, Attractive smooths or roughens the skin (and makes it an age below 55 and evens
    the muscles), Blurry sets the blur. The class of the expression and the identity stay.

    Args:
        p: the faces.
        name: one of `labels.ATTRIBUTES`.
        value: for all, or ``[n]`` bool.

    Raises:
        ValueError: another name or shape.
        TypeError: `value` is neither bool nor a bool tensor.
    """
    _check.one_of("name", name, ATTRIBUTES)
    wanted = _wanted(name, value, p)
    columns = dict(zip(ATTRIBUTES, p.attributes.unbind(1), strict=True))
    changes: dict[str, Tensor] = {}

    if name == "Young":
        changes["age"] = torch.where(wanted, p.age.where(p.age < YOUNG, 25.0),
                                     p.age.where(p.age >= YOUNG, 60.0))  # fmt: skip
    elif name == "Smiling":
        changes["activations"] = _limit(p.activations, wanted, _AU12, SMILE, 0.8)
    elif name == "Mouth Slightly Open":
        opened = _limit(p.activations, wanted, _AU25, OPEN, 0.6)
        closed = _limit(opened, wanted, _AU26, OPEN, 0.0)
        changes["activations"] = closed.where(~wanted[:, None, None], opened)
    elif name == "Attractive":
        rough = p.roughness
        changes["roughness"] = torch.where(wanted, rough.where(rough < SMOOTH, 0.1),
                                           rough.where(rough >= SMOOTH, 0.8))  # fmt: skip
        changes["age"] = p.age.where(~wanted | (p.age < 55), 40.0)
        even = p.activations.mean(1, keepdim=True).expand_as(p.activations)
        changes["activations"] = even.where(wanted[:, None, None], p.activations)
    elif name == "Blurry":
        blur = p.blur
        changes["blur"] = torch.where(wanted, blur.where(blur >= BLURRY, 0.03),
                                      blur.where(blur < BLURRY, 0.0))  # fmt: skip
    columns[name] = wanted
    for other in _CLEARS.get(name, ()):
        columns[other] = columns[other] & ~wanted
    if name == "Gender":
        for other in (*_BEARDS, "Mustache", "Sideburns", "Bald", "Wearing Necktie"):
            columns[other] = columns[other] & wanted
        columns["No Beard"] = columns["No Beard"] | ~wanted
    elif name in _BEARDS:  # without it, no other beard grows
        columns["No Beard"] = columns["No Beard"] | ~(columns[_BEARDS[0]] | columns[_BEARDS[1]])
    changed = p.replace(**changes)
    columns |= _following(changed)
    return changed.replace(attributes=torch.stack([columns[a] for a in ATTRIBUTES], 1))


def set_attributes(p: FaceParameters, values: Mapping[str, bool | Tensor]) -> FaceParameters:
    """`set_attribute` for each of `values`, in their order.

    Raises:
        ValueError: two of them contradict each other, or as `set_attribute`.
    """
    for name, value in values.items():
        p = set_attribute(p, name, value)
    for name, value in values.items():
        if not torch.equal(p.has(name), _wanted(name, value, p)):
            raise ValueError(f"attributes must not contradict each other, but {name!r} does")
    return p


def _wanted(name: str, value: bool | Tensor, p: FaceParameters) -> Tensor:
    if isinstance(value, bool):
        return torch.full_like(p.identity, value, dtype=torch.bool)
    if not isinstance(value, Tensor) or value.dtype != torch.bool:
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"attribute {name!r} must be a bool or a bool tensor, got {kind}")
    _check.shape(f"attribute {name!r}", value, (len(p),), "[n]")
    return value


def _limit(muscles: Tensor, wanted: Tensor, unit: int, threshold: float, value: float) -> Tensor:
    """Column `unit` at `value` where it should reach the threshold and does not, 0 where it does
    and should not.
    """
    column = muscles[:, :, unit]
    high = column.mean(1, keepdim=True) >= threshold
    wanted = wanted[:, None]
    column = torch.where(wanted, column.where(high, value), column.where(~high, 0.0))
    out = muscles.clone()
    out[:, :, unit] = column
    return out
