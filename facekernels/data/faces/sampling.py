"""Drawing the parameters of faces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from facekernels import _check
from facekernels.data.faces import attributes as rules
from facekernels.data.faces import random
from facekernels.data.faces.expression import activations
from facekernels.data.faces.occluders import OCCLUDERS
from facekernels.data.faces.parameters import SHAPE, FaceParameters
from facekernels.data.faces.settings import Settings
from facekernels.data.labels import ATTRIBUTES, EXPRESSIONS

Given = Tensor | Sequence[int] | Sequence[float] | int | float
"""A value for all samples or one per sample."""


def sample(
    n: int,
    seed: int = 0,
    settings: Settings | None = None,
    identities: Given | None = None,
    expressions: Given | None = None,
    ages: Given | None = None,
    *,
    intensities: Given | None = None,
    poses: Tensor | None = None,
    attributes: Mapping[str, bool | Tensor] | None = None,
    start: int = 0,
) -> FaceParameters:
    """Parameters of `n` faces; factors that are not given are drawn from `settings`.

    Sample i depends on `seed`, `start + i`, the settings and what is given for it, and on
    nothing else: ``sample(100, seed)[:10]`` equals ``sample(10, seed)``.

    Args:
        n: number of faces.
        seed: another seed, other pictures. A person looks the same under every seed.
        settings: distributions; `Settings()` if None.
        identities: ``[n]`` integers of persons, at least 0.
        expressions: ``[n]`` integers 0 to 6, in the order of `labels.EXPRESSIONS`.
        ages: ``[n]`` years in [0, 120].
        intensities: ``[n]`` intensity of the expression in [0, 1.5].
        poses: ``[n, 3]`` yaw, pitch, roll in degrees, within 60, 40, 180.
        attributes: name to bool or ``[n]`` bool, applied by `set_attribute`.
        start: index of the first sample, to draw a large set in parts.

    Raises:
        TypeError: an argument of another type.
        ValueError: a shape or value out of range; contradicting attributes; Young with ages.
    """
    n, seed, start = (_check.integer(*a) for a in (("n", n), ("seed", seed), ("start", start)))
    if n < 0 or start < 0:
        raise ValueError(f"n and start must be at least 0, got {n} and {start}")
    if not -(1 << 62) <= seed < 1 << 62:
        raise ValueError(f"seed must lie within -2**62 .. 2**62, got {seed}")
    settings = Settings() if settings is None else settings
    if not isinstance(settings, Settings):
        raise TypeError(f"settings must be a faces.Settings, got {type(settings).__name__}")
    attributes = dict(attributes or {})
    for name in attributes:
        _check.one_of("attributes", name, ATTRIBUTES)
    if ages is not None and "Young" in attributes:
        raise ValueError("attributes must not hold 'Young' if ages are given: it follows from them")

    key = random.keys(seed, start + torch.arange(n), "sample")
    if identities is not None:
        identity = _integers("identities", identities, n, None)
    elif settings.identities is not None:
        identity = (random.uniform(key, "identity") * settings.identities).long()
    else:
        identity = random.bits(key, "identity") & ((1 << 48) - 1)
    person = random.keys(settings.identity_seed, identity, "person")

    if expressions is not None:
        expression = _integers("expressions", expressions, n, len(EXPRESSIONS))
    else:
        expression = (random.uniform(key, "expression") * len(EXPRESSIONS)).long()
    if intensities is not None:
        intensity = _numbers("intensities", intensities, n, 0, 1.5)
    else:
        intensity = random.uniform(key, "intensity", *settings.intensity)
    blend = random.uniform(key, "blend") * settings.ambiguity
    if ages is not None:
        age = _numbers("ages", ages, n, 0, 120)
    else:
        own = random.uniform(person, "age", *settings.age)
        offset = random.uniform(key, "age", -1, 1) * settings.age_spread
        age = (own + offset).clamp(*settings.age)

    p = FaceParameters(
        identity=identity,
        shape=torch.stack([random.bell(person, name) for name in SHAPE], 1),
        expression=expression,
        intensity=intensity,
        blend=blend,
        activations=activations(expression, intensity, blend, key, settings),
        age=age,
        roughness=_roughness(person, age),
        attributes=torch.zeros(n, len(ATTRIBUTES), dtype=torch.bool),
        pose=_pose(key, poses, n, settings),
        placement=_placement(key, settings),
        light=_light(key, settings),
        background=_background(key, settings),
        clothes=_colour(key, "clothes", 0.1, 0.9),
        occluder=_occluder(key, settings),
        occluder_place=_occluder_place(key, settings),
        blur=random.chance(key, "blurry", settings.blurry)
        * random.uniform(key, "blur", 0.02, 0.04),
        noise=random.uniform(key, "noise") * settings.noise,
        resolution=_resolution(key, settings),
        key=key,
    )
    p = p.replace(attributes=rules.draw(person, key, p, settings))
    return rules.set_attributes(p, attributes)


def _roughness(person: Tensor, age: Tensor) -> Tensor:
    aged = ((age - 30) / 60).clamp(0, 1)
    return (random.uniform(person, "roughness") * 0.8 + aged * 0.3).clamp(0, 1)


def _pose(key: Tensor, poses: Tensor | None, n: int, settings: Settings) -> Tensor:
    if poses is None:
        limits = {"yaw": settings.yaw, "pitch": settings.pitch, "roll": settings.roll}
        return torch.stack([random.bell(key, name) * limit for name, limit in limits.items()], 1)
    _check.tensor("poses", poses)
    _check.shape("poses", poses, (n, 3), "[n, 3]")
    poses = poses.float()
    limit = torch.tensor([60.0, 40.0, 180.0])
    if not (poses.abs() <= limit).all():
        raise ValueError("poses must lie within 60, 40 and 180 degrees (yaw, pitch, roll)")
    return poses


def _placement(key: Tensor, settings: Settings) -> Tensor:
    shifts = [random.bell(key, f"shift.{axis}") * settings.shift for axis in "xy"]
    return torch.stack([*shifts, random.uniform(key, "zoom", *settings.zoom)], 1)


def _light(key: Tensor, settings: Settings) -> Tensor:
    """Directions in a square whose corners are longer than 1 are shortened to the disc."""
    x, y = (random.uniform(key, f"light.{axis}", -1, 1) for axis in "xy")
    length = (x * x + y * y).sqrt().clamp(min=1.0)
    strength = random.uniform(key, "light.strength", *settings.light)
    return torch.stack([x / length, y / length, strength], 1)


def _colour(key: Tensor, name: str, low: float, high: float) -> Tensor:
    return torch.stack([random.uniform(key, f"{name}.{c}", low, high) for c in "rgb"], 1)


def _background(key: Tensor, settings: Settings) -> Tensor:
    first = _colour(key, "background", 0.15, 0.9)
    if settings.background == "plain":
        return torch.cat([first, first, torch.zeros(len(key), 3)], 1)
    second = _colour(key, "background.second", 0.1, 0.95)
    place = [random.uniform(key, f"background.{axis}", -1, 1) for axis in "xy"]
    size = random.uniform(key, "background.size", 0.5, 1.6)
    return torch.cat([first, second, torch.stack([*place, size], 1)], 1)


def _occluder(key: Tensor, settings: Settings) -> Tensor:
    kinds = torch.tensor([OCCLUDERS.index(kind) for kind in settings.occluders])
    kind = kinds[(random.uniform(key, "occluder") * len(kinds)).long()]
    return kind * random.chance(key, "occluded", settings.occlusion)


def _occluder_place(key: Tensor, settings: Settings) -> Tensor:
    return torch.stack(
        [
            random.uniform(key, "occluder.x", -0.4, 0.4),
            random.uniform(key, "occluder.y", -0.4, 0.5),
            random.uniform(key, "occluder.size", *settings.occluder_size),
            random.uniform(key, "occluder.tone"),
        ],
        1,
    )


def _resolution(key: Tensor, settings: Settings) -> Tensor:
    if not settings.resolutions:
        return torch.zeros_like(key)
    sizes = torch.tensor(settings.resolutions)
    return sizes[(random.uniform(key, "resolution") * len(sizes)).long()]


def _given(name: str, value: Given, n: int) -> Tensor:
    tensor = torch.as_tensor(value)
    if tensor.dtype == torch.bool or tensor.is_complex():
        raise TypeError(f"{name} must hold numbers, got {tensor.dtype}")
    if tensor.ndim == 0:
        return tensor.expand(n)
    _check.shape(name, tensor, (n,), "[n]")
    return tensor


def _integers(name: str, value: Given, n: int, classes: int | None) -> Tensor:
    tensor = _given(name, value, n)
    if tensor.dtype.is_floating_point:
        raise TypeError(f"{name} must hold integers, got {tensor.dtype}")
    tensor = tensor.long().contiguous()
    if n and (tensor.min() < 0 or (classes is not None and tensor.max() >= classes)):
        wanted = "at least 0" if classes is None else f"0 .. {classes - 1}"
        raise ValueError(f"{name} must be {wanted}, got {tensor.min()} .. {tensor.max()}")
    return tensor


def _numbers(name: str, value: Given, n: int, low: float, high: float) -> Tensor:
    tensor = _given(name, value, n).float().contiguous()
    if not ((tensor >= low) & (tensor <= high)).all():
        raise ValueError(
            f"{name} must lie within [{low:g}, {high:g}], got {tensor.min()} .. {tensor.max()}"
        )
    return tensor
