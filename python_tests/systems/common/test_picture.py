"""Images as the networks take them."""

from __future__ import annotations

import pytest
import torch

from facekernels.data.transforms import (
    analysis_transform,
    erasing_transform,
    evaluation_transform,
)
from facekernels.systems.common.picture import as_input


def test_range_and_type() -> None:
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    made = as_input(pixels, 4)
    torch.testing.assert_close(made[0, :, 0, 0], torch.tensor([-1.0, -0.6, 1.0]))
    torch.testing.assert_close(as_input(pixels / 255, 4), made)


@pytest.mark.parametrize("shape", [(8, 5), (5, 8), (9, 4)])
def test_the_central_square_is_taken(shape: tuple[int, int]) -> None:
    image, side = torch.rand(1, 3, *shape), min(shape)
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    square = image[:, :, top : top + side, left : left + side]
    assert torch.equal(as_input(image, side), as_input(square, side))
    assert torch.equal(as_input(image, 7), as_input(square, 7))


@pytest.mark.parametrize("shape", [(218, 178), (178, 217)])
def test_training_evaluation_and_prediction_see_the_same(shape: tuple[int, int]) -> None:
    image = torch.randint(256, (3, *shape), generator=torch.Generator().manual_seed(0)).byte()
    seen = as_input(image[None], 178)[0]
    for transform in (analysis_transform, erasing_transform, evaluation_transform):
        assert torch.equal(transform(178)(image), seen)
    # Smaller: equal up to one of 255 levels, as the former rounds to 8 bits.
    small = evaluation_transform(112)(image)
    torch.testing.assert_close(small, as_input(image[None], 112)[0], atol=2.01 / 255, rtol=0)


def test_bad_images_are_named() -> None:
    with pytest.raises(ValueError, match=r"images must be \[B, 3, H, W\], got shape \(3, 4, 4\)"):
        as_input(torch.zeros(3, 4, 4), 4)
    with pytest.raises(TypeError, match=r"must be uint8 or floating point, got torch\.int64"):
        as_input(torch.zeros(1, 3, 4, 4, dtype=torch.int64), 4)
