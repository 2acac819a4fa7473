"""Transforms: against Pillow, their distributions, and their random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Generator, Tensor

from facekernels.data import image_ops
from facekernels.data.transforms import (
    OPERATIONS,
    ColourJitter,
    Compose,
    HorizontalFlip,
    Normalise,
    RandAugment,
    RandomErasing,
    Resize,
    analysis_transform,
    evaluation_transform,
    operate,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in a loader's process; many threads on a busy machine wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


@pytest.fixture
def noise() -> Tensor:
    return (torch.rand(3, 23, 31, generator=seeded(0)) * 200 + 20).to(torch.uint8)


@pytest.fixture
def smooth() -> Tensor:
    small = (torch.rand(3, 6, 8, generator=seeded(0)) * 255).to(torch.uint8)
    return torch.nn.functional.interpolate(small[None], (23, 31), mode="bicubic")[0]


def pillow(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("invert", (), ImageOps.invert),
        ("auto_contrast", (), ImageOps.autocontrast),
        ("equalize", (), ImageOps.equalize),
        *[("posterize", (bits,), lambda p, b=bits: ImageOps.posterize(p, b)) for bits in (1, 4, 8)],
        *[("solarize", (t,), lambda p, t=t: ImageOps.solarize(p, t)) for t in (0, 26, 255)],
        *[
            (name.lower(), (f,), lambda p, n=name, f=f: getattr(ImageEnhance, n)(p).enhance(f))
            for name in ("Color", "Contrast", "Brightness", "Sharpness")
            for f in (0.1, 0.7, 1.37, 1.9)
        ],
    ],
)
def test_equal_to_pillow(noise: Tensor, name: str, arguments: Any, expected: Any) -> None:
    assert torch.equal(getattr(image_ops, name)(noise, *arguments), tensor(expected(pillow(noise))))


@pytest.mark.parametrize("name", ["auto_contrast", "equalize"])
@pytest.mark.parametrize("value", [0, 77, 255])
def test_an_image_of_one_value_stays(name: str, value: int) -> None:
    flat = torch.full((3, 5, 4), value, dtype=torch.uint8)
    assert torch.equal(getattr(image_ops, name)(flat), flat)


def test_posterize_to_nothing_and_solarize_add() -> None:
    image = torch.tensor([0, 127, 128, 255], dtype=torch.uint8).expand(3, 1, 4)
    assert image_ops.posterize(image, 0).max() == 0  # timm's strongest
    assert image_ops.solarize_add(image, 110)[0, 0].tolist() == [110, 237, 128, 255]
    assert image_ops.solarize(image, 256)[0, 0].tolist() == [0, 127, 128, 255]


MATRICES = [((1, 0.27, 0), (0, 1, 0)), ((1, 0, 3.3), (0.1, 1, 0)), ((0.9, -0.3, 5), (0.3, 0.9, -2))]


@pytest.mark.parametrize("matrix", MATRICES)
def test_affine_against_pillow(smooth: Tensor, matrix: Any) -> None:
    expected = pillow(smooth).transform(
        (31, 23), Image.Transform.AFFINE, sum(matrix, ()), Image.Resampling.BILINEAR,
        fillcolor=(128, 128, 128),
    )  # fmt: skip
    difference = (image_ops.affine(smooth, matrix, "bilinear").int() - tensor(expected)).abs()
    assert difference.max() <= 1
    assert (difference > 0).double().mean() < 0.05


@pytest.mark.parametrize("degrees", [90, -90, 180, 27])
def test_rotate_against_pillow(degrees: float, smooth: Tensor) -> None:
    square = smooth[:, :, :23]
    expected = tensor(
        pillow(square).rotate(degrees, Image.Resampling.BICUBIC, fillcolor=(128, 128, 128))
    )
    difference = (image_ops.rotate(square, degrees).int() - expected.int()).abs()
    # Quarter turns sample no fractions; else the bicubic kernels differ.
    assert difference.max() <= (1 if degrees % 90 == 0 else 12)


def test_whole_translations(noise: Tensor) -> None:
    moved = image_ops.affine(noise, ((1, 0, 4), (0, 1, 0)))
    assert (moved[:, :, :27].int() - noise[:, :, 4:].int()).abs().max() <= 1
    assert (moved[:, :, 27:] == 128).all()
    up = image_ops.translate_y(noise, 2 / 23)
    assert (up[:, :21].int() - noise[:, 2:].int()).abs().max() <= 1
    assert (up[:, 21:] == 128).all()


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [12, 60])
def test_resize_against_pillow(noise: Tensor, mode: Any, size: int) -> None:
    expected = pillow(noise).resize((size, size), getattr(Image.Resampling, mode.upper()))
    assert (Resize(size, mode)(noise).int() - tensor(expected).int()).abs().max() <= 1


def test_resize_crops_the_centre(noise: Tensor) -> None:
    assert torch.equal(Resize(23, crop=True)(noise), noise[:, :, 4:27])
    assert torch.equal(Resize(23, crop=True)(noise.mT), noise.mT[:, 4:27])
    assert torch.equal(Resize(23, crop=True)(noise[..., :30]), noise[:, :, 3:26])
    with pytest.raises(ValueError, match=r"^size must be at least 1, got 0$"):
        Resize(0)


def test_normalise() -> None:
    image = torch.tensor([0, 51, 255], dtype=torch.uint8)
    torch.testing.assert_close(Normalise()(image), torch.tensor([-1, -0.6, 1]))


RANDOM = [HorizontalFlip(), ColourJitter(), RandAugment(), analysis_transform()]


@pytest.mark.parametrize("transform", RANDOM, ids=lambda t: type(t).__name__)
def test_random_numbers_come_from_the_generator_alone(transform: Any, noise: Tensor) -> None:
    state = torch.random.get_rng_state()
    first = [transform(noise, seeded(i)) for i in range(20)]
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(a, transform(noise, seeded(i))) for i, a in enumerate(first))
    assert any(not torch.equal(first[0], a) for a in first[1:])


def test_without_a_generator_nothing_is_random(noise: Tensor) -> None:
    for transform in (HorizontalFlip(1), ColourJitter(), RandAugment()):
        assert torch.equal(transform(noise, None), noise)
    normal = Normalise()(noise)
    assert torch.equal(RandomErasing(1)(normal, None), normal)
    assert torch.equal(analysis_transform(23)(noise), Normalise()(Resize(23, crop=True)(noise)))


def test_evaluation_transform(noise: Tensor) -> None:
    expected = Normalise()(Resize(20, crop=True)(noise))
    assert torch.equal(evaluation_transform(20)(noise, seeded(0)), expected)
    assert analysis_transform()(noise, seeded(0)).shape == (3, 112, 112)


def test_flip_happens_with_its_probability(noise: Tensor) -> None:
    flip = HorizontalFlip(0.3)
    generator = seeded(0)
    flipped = [not torch.equal(flip(noise, generator), noise) for _ in range(2000)]
    assert abs(np.mean(flipped) - 0.3) < 0.04  # 4 standard deviations
    assert torch.equal(HorizontalFlip(1)(noise, generator), noise.flip(-1))


def test_colour_jitter_keeps_to_its_range() -> None:
    """On a grey image the two others do nothing, so the brightness is seen."""
    grey = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    generator = seeded(0)
    values = torch.stack([ColourJitter(0.4)(grey, generator)[0, 0, 0] for _ in range(500)])
    assert 59 <= values.min() < 66
    assert 134 < values.max() <= 140
    assert torch.equal(ColourJitter(0)(grey, generator), grey)


def test_colour_jitter_is_in_any_order(monkeypatch: pytest.MonkeyPatch, noise: Tensor) -> None:
    orders, order = set(), []
    for name in ("brightness", "contrast", "color"):
        monkeypatch.setattr(image_ops, name, lambda image, _, n=name: order.append(n) or image)
    for seed in range(60):
        ColourJitter()(noise, seeded(seed))
        orders.add(tuple(order))
        order.clear()
    assert len(orders) == 6


def test_rand_augment_draws_every_operation(monkeypatch: pytest.MonkeyPatch, noise: Tensor) -> None:
    drawn: list[tuple[str, float, int]] = []

    def record(image: Tensor, name: str, level: float, sign: int) -> Tensor:
        drawn.append((name, level, sign))
        return image

    monkeypatch.setattr("facekernels.data.transforms.operate", record)
    generator = seeded(0)
    for _ in range(3000):
        RandAugment()(noise, generator)
    assert abs(len(drawn) - 3000) < 4 * 1500**0.5  # of 6000 draws, half are done
    counts = torch.bincount(torch.tensor([OPERATIONS.index(name) for name, _, _ in drawn]))
    assert len(counts) == 15
    assert (counts - 200).abs().max() < 4 * 200**0.5
    levels = torch.tensor([level for _, level, _ in drawn])
    assert abs(levels.mean() - 0.9) < 0.005
    assert abs(levels.std() - 0.05) < 0.004
    assert levels.max() == 1  # cut off at 2 standard deviations
    assert abs(np.mean([sign for _, _, sign in drawn])) < 4 / 3000**0.5


@pytest.mark.parametrize(
    ("name", "level", "sign", "expected"),
    [
        ("rotate", 0.9, 1, lambda x: image_ops.rotate(x, 27)),
        ("rotate", 0.9, -1, lambda x: image_ops.rotate(x, -27)),
        ("posterize", 0.9, 1, lambda x: image_ops.posterize(x, 1)),
        ("solarize", 0.9, 1, lambda x: image_ops.solarize(x, 26)),
        ("solarize_add", 0.9, 1, lambda x: image_ops.solarize_add(x, 99)),
        ("color", 0.9, 1, lambda x: image_ops.color(x, 1.81)),
        ("sharpness", 0.9, -1, lambda x: image_ops.sharpness(x, 0.19)),
        ("brightness", 1.0, -1, lambda x: image_ops.brightness(x, 0.1)),
        ("shear_x", 0.9, -1, lambda x: image_ops.shear_x(x, -0.27)),
        ("translate_x", 1.0, 1, lambda x: image_ops.translate_x(x, 0.45)),
    ],
)
def test_strengths_are_those_of_timm(
    noise: Tensor, name: str, level: float, sign: int, expected: Any
) -> None:
    assert torch.equal(operate(noise, name, level, sign), expected(noise))


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_works_at_both_ends(noise: Tensor, name: str) -> None:
    for level in (0.0, 1.0):
        result = operate(noise, name, level, -1)
        assert result.dtype is torch.uint8
        assert result.shape == noise.shape


def test_random_erasing() -> None:
    image = torch.full((3, 40, 50), 9.0)
    generator = seeded(0)
    parts, ratios, values, kept = [], [], [], 0
    for _ in range(1000):
        result = RandomErasing(0.5)(image, generator)
        erased = (result != 9).any(0)
        if not erased.any():
            kept += 1
            continue
        rows, columns = erased.any(1).sum().item(), erased.any(0).sum().item()
        assert erased.sum() == rows * columns  # one rectangle
        parts.append(rows * columns / 2000)
        ratios.append(rows / columns)
        values.append(result[:, erased].flatten())
    assert abs(kept - 500) < 64
    assert 0.015 < min(parts) < 0.04
    assert 0.3 < max(parts) < 0.345
    assert 0.25 < min(ratios) < 0.4
    assert 2.5 < max(ratios) < 4
    drawn = torch.cat(values)
    assert abs(drawn.mean()) < 0.01
    assert abs(drawn.std() - 1) < 0.01
    assert (image == 9).all()  # a new tensor, not the caller's


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HorizontalFlip(1.5), r"^p must lie in \[0, 1\], got 1.5$"),
        (lambda: ColourJitter(-1), r"^amount must lie in \[0, 1\], got -1$"),
        (lambda: RandomErasing(float("nan")), "^p must lie in"),
        (lambda: RandAugment(11), r"^magnitude must lie in \[0, 10\], .* got 11, 0.5 and 2$"),
    ],
)
def test_arguments_out_of_range(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_erasing_before_normalising_is_an_error(noise: Tensor) -> None:
    with pytest.raises(TypeError, match="image must be normalised before RandomErasing, got torch"):
        Compose([RandomErasing(1)])(noise, seeded(0))
