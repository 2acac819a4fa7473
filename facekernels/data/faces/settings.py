"""What is drawn how often and how widely."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

from facekernels import _check
from facekernels.data.faces.occluders import OCCLUDERS

BACKGROUNDS = ("varied", "plain")
Check = Callable[[str, object], None]


@dataclass(frozen=True)
class Settings:
    """Distribution of the factors that `sample` draws. All of them vary independently.

    Raises:
        TypeError, ValueError: a value out of its range, by name.
    """

    identities: int | None = None
    """Number of persons, 0 .. identities - 1, drawn uniformly; None: another person every time."""
    identity_seed: int = 0
    """Another seed is another population: person 3 of seed 0 is not person 3 of seed 1."""
    age: tuple[float, float] = (5.0, 80.0)
    """Range of a person's own age in years, uniform; within [0, 100]."""
    age_spread: float = 3.0
    """Pictures of a person are up to this many years younger or older."""
    intensity: tuple[float, float] = (0.6, 1.0)
    """Range of the expression intensity, within [0, 1.5]."""
    ambiguity: float = 0.0
    """In [0, 1]. Muscle activations move to those of the neighbour class by a share drawn from
    U(0, ambiguity): from 0.5 on neighbours overlap, at 1 they are the same distribution."""
    muscle_noise: float = 0.15
    """Standard size of what single muscles deviate from the pattern of the class, in [0, 1]."""
    mouth_open: float = 0.2
    """Probability that lips are parted as in speech, whatever the expression."""
    asymmetry: float = 0.0
    """In [0, 1]: left and right activations differ by up to this share."""
    yaw: float = 20.0
    """Largest yaw in degrees, at most 60; triangular around 0, as are pitch and roll."""
    pitch: float = 12.0
    """Largest pitch in degrees, at most 40."""
    roll: float = 10.0
    """Largest roll in degrees, at most 90."""
    shift: float = 0.04
    """Largest shift of the head, as a share of half the image side."""
    zoom: tuple[float, float] = (0.95, 1.05)
    """Range of the scale of the head. At 1 the face is about half as wide as the image."""
    light: tuple[float, float] = (0.0, 0.5)
    """Range of the strength of directional light, within [0, 1]."""
    background: str = "varied"
    """"varied" (two colours and a soft shape) or "plain" (one colour)."""
    accessories: float = 1.0
    """Multiplies the probability of glasses, hats, jewellery, neckties, makeup; in [0, 1]."""
    occlusion: float = 0.0
    """Probability of an occluder."""
    occluders: tuple[str, ...] = OCCLUDERS[1:]
    """Which ones: "bar", "mask", "hand", "patch"."""
    occluder_size: tuple[float, float] = (0.8, 1.2)
    """Range of their scale, within [0, 3]."""
    blurry: float = 0.05
    """Probability of the attribute Blurry: a blur of 2 to 4 percent of the image side."""
    noise: float = 0.0
    """Largest standard deviation of pixel noise, in [0, 1]; uniform."""
    resolutions: tuple[int, ...] = ()
    """Effective sizes in pixels of which one is drawn; empty: full resolution."""

    def __post_init__(self) -> None:
        for field in fields(self):
            _CHECKS[field.name](field.name, getattr(self, field.name))


def _within(low: float, high: float) -> Check:
    def check(name: str, value: object) -> None:
        number = _check.number(f"settings.{name}", value)
        if not low <= number <= high:
            raise ValueError(f"settings.{name} must lie within [{low:g}, {high:g}], got {value}")

    return check


def _range(low: float, high: float) -> Check:
    def check(name: str, value: object) -> None:
        if not isinstance(value, tuple | list) or len(value) != 2:
            raise TypeError(f"settings.{name} must be a pair (low, high), got {value!r}")
        first, last = (_check.number(f"settings.{name}", v) for v in value)
        if not low <= first <= last <= high:
            raise ValueError(
                f"settings.{name} must be (low, high) with {low:g} <= low <= high <= {high:g}, "
                f"got {value}"
            )

    return check


def _count(name: str, value: object) -> None:
    if value is not None and _check.integer(f"settings.{name}", value) < 1:
        raise ValueError(f"settings.{name} must be at least 1 or None, got {value}")


def _seed(name: str, value: object) -> None:
    _check.integer(f"settings.{name}", value)


def _background(name: str, value: object) -> None:
    _check.one_of(f"settings.{name}", value, BACKGROUNDS)


def _occluders(name: str, value: object) -> None:
    if not isinstance(value, tuple | list) or not value:
        raise TypeError(f"settings.{name} must be a tuple of names, got {value!r}")
    for item in value:
        _check.one_of(f"settings.{name}", item, OCCLUDERS[1:])


def _resolutions(name: str, value: object) -> None:
    if not isinstance(value, tuple | list):
        raise TypeError(f"settings.{name} must be a tuple of integers, got {value!r}")
    for item in value:
        if _check.integer(f"settings.{name}", item) < 2:
            raise ValueError(f"settings.{name} must be at least 2 pixels each, got {value}")


_share = _within(0, 1)
_CHECKS: dict[str, Check] = {
    "identities": _count,
    "identity_seed": _seed,
    "age": _range(0, 100),
    "age_spread": _within(0, 100),
    "intensity": _range(0, 1.5),
    "ambiguity": _share,
    "muscle_noise": _share,
    "mouth_open": _share,
    "asymmetry": _share,
    "yaw": _within(0, 60),
    "pitch": _within(0, 40),
    "roll": _within(0, 90),
    "shift": _share,
    "zoom": _range(0.2, 3),
    "light": _range(0, 1),
    "background": _background,
    "accessories": _share,
    "occlusion": _share,
    "occluders": _occluders,
    "occluder_size": _range(0, 3),
    "blurry": _share,
    "noise": _share,
    "resolutions": _resolutions,
}
