"""Numbers by key, augmentation by key, and batches of images in memory."""

from __future__ import annotations

import pytest
import torch

from facekernels.data.batch_augment import BatchAugment
from facekernels.data.keyed_random import mix, uniform
from facekernels.data.labelled import LabelledImages
from facekernels.systems.common.steps import Draw

NOTHING = BatchAugment(flip=0, rotate=0, scale=0, shift=0, jitter=0, erase=0)


def test_splitmix64() -> None:
    """The finalizer's value at 1, computed with Python's integers."""
    x, mask = 1, (1 << 64) - 1
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    x ^= x >> 31
    assert int(mix(torch.tensor([1]))) % (1 << 64) == x


def test_numbers_are_uniform_and_belong_to_their_key() -> None:
    u = uniform(torch.arange(50_000), 3)
    assert u.min() >= 0
    assert u.max() < 1
    torch.testing.assert_close(u.mean(0), torch.full((3,), 0.5), atol=0.01, rtol=0)
    torch.testing.assert_close(u.var(0), torch.full((3,), 1 / 12), atol=0.002, rtol=0)
    assert torch.corrcoef(u.T).fill_diagonal_(0).abs().max() < 0.02
    assert torch.equal(uniform(torch.tensor([7, 123]), 3), u[[7, 123]])


def test_augmentation_does_not_depend_on_the_batch() -> None:
    images = torch.rand(5, 3, 16, 16)
    keys = torch.tensor([3, 1 << 41, 5, 6, 7])
    whole = BatchAugment()(images, keys)
    torch.testing.assert_close(BatchAugment()(images[2:4], keys[2:4]), whole[2:4])
    assert not torch.equal(BatchAugment()(images, keys + 1), whole)
    assert whole.min() >= 0
    assert whole.max() <= 1


def test_every_part_does_what_it_says() -> None:
    images = torch.rand(64, 3, 16, 16)
    keys = torch.arange(64)
    torch.testing.assert_close(NOTHING(images, keys), images, atol=1e-5, rtol=0)
    flipped = BatchAugment(1, 0, 0, 0, 0, 0)(images, keys)
    torch.testing.assert_close(flipped, images.flip(-1), atol=1e-5, rtol=0)
    half = BatchAugment(0.5, 0, 0, 0, 0, 0)(images, keys)
    mirrored = (half - images).abs().amax((1, 2, 3)) > 1e-3
    assert 15 < mirrored.sum() < 49
    erased = BatchAugment(0, 0, 0, 0, 0, 1)(images, keys)
    share = ((erased - images).abs().amax(1) > 1e-4).float().mean((1, 2))
    assert share.min() > 0
    assert share.max() < 0.35
    coloured = BatchAugment(0, 0, 0, 0, 0.4, 0)(images * 0.5, keys)
    ratio = coloured.mean((1, 2, 3)) / (images * 0.5).mean((1, 2, 3))
    assert ratio.min() > 0.59
    assert ratio.max() < 1.45  # clamping moves the mean
    assert ratio.std() > 0.1
    moved = BatchAugment(0, 10, 0.1, 0.06, 0, 0)(images, keys)
    assert (moved - images).abs().amax((1, 2, 3)).min() > 1e-3


def test_labelled_images_are_fetched_by_batch() -> None:
    images = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    seen: list[torch.Tensor] = []

    def augment(x: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        seen.append(keys)
        return 1 - x

    data = LabelledImages(images, {"label": torch.arange(6)}, augment)
    batch = data.__getitems__([Draw(4, 70), Draw(1, 80)])
    assert batch["label"].tolist() == [4, 1]
    assert seen[0].tolist() == [70, 80]
    expected = 1 - images[[4, 1]].float() / 255
    torch.testing.assert_close(batch["image"], expected * 2 - 1)
    plain = data.__getitems__([4])
    torch.testing.assert_close(plain["image"][0], images[4].float() / 127.5 - 1)
    assert data[2]["label"] == 2


def test_bad_images_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"images must be \[N, C, H, W\] uint8, got shape \(2, 3\)"
    ):
        LabelledImages(torch.zeros(2, 3, dtype=torch.uint8), {})
    with pytest.raises(ValueError, match=r"labels\['age'\] must have 2 rows, got 3"):
        LabelledImages(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), {"age": torch.zeros(3)})
