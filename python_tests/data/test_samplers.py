"""Sampling odds, lists repeated to a length, controlled imbalance, mirrored pairs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, WeightedRandomSampler

from facekernels.data import balanced_indices, imbalanced_counts, subsample_to_counts
from facekernels.data.labelled import LabelledImages
from facekernels.data.paired_flip import PairedFlip
from facekernels.data.samplers import RepeatToLength, inverse_frequency_weights


def test_inverse_frequency_weights_by_hand() -> None:
    weights = inverse_frequency_weights(torch.tensor([0, 2, 2, 0, 2, 3, 2]))
    assert weights.tolist() == [0.5, 0.25, 0.25, 0.5, 0.25, 1, 0.25]
    with pytest.raises(ValueError, match=r"labels must be \[N\] integers, got shape \(2,\) of"):
        inverse_frequency_weights(torch.rand(2))


def test_inverse_frequency_draws_are_balanced() -> None:
    labels = torch.tensor([0] * 5 + [1] * 50 + [2] * 500)
    sampler = WeightedRandomSampler(
        inverse_frequency_weights(labels).tolist(), 6000, generator=torch.Generator().manual_seed(0)
    )
    counts = torch.bincount(labels[list(sampler)])
    assert (counts - 2000).abs().max() < 150  # 4 standard deviations


class Named(Dataset[dict[str, Any]]):
    """Items tell which list and row they are, and the key they were asked with."""

    def __init__(self, name: str, size: int) -> None:
        self.name, self.size = name, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> dict[str, Any]:
        row, key = index if isinstance(index, tuple) else (index, None)
        return {"item": f"{self.name}{row}", "key": key}


def items(data: Dataset[dict[str, Any]]) -> list[str]:
    return [data[i]["item"] for i in range(len(data))]  # type: ignore[arg-type]


def test_repeat_to_length_by_hand() -> None:
    data = RepeatToLength([Named("a", 2), Named("b", 9), Named("c", 3)], [0.25, 0.25, 0.5], 10)
    # Parts of 2.5 and 2.5 are rounded up, the last takes what is left.
    assert items(data) == ["a0", "a1", "a0", "b0", "b1", "b2", "c0", "c1", "c2", "c0"]
    assert len(data) == 10
    assert data[(3, 77)] == {"item": "b0", "key": 77}
    with pytest.raises(IndexError, match=r"index must lie in \[0, 10\), got 10"):
        data[10]


def test_shares_that_are_not_exact_in_binary() -> None:
    data = RepeatToLength([Named("a", 100), Named("b", 100)], [0.07, 0.93], 100)
    assert 0.07 * 100 > 7
    assert sum(item.startswith("a") for item in items(data)) == 7


def test_keep_draws_anew_in_every_pass() -> None:
    data = RepeatToLength([Named("", 100)], [1.0], 1000, keep=0.5, seed=3)
    rows = [int(name) for name in items(data)]
    starts = [i for i in range(1, 1000) if rows[i] <= rows[i - 1]]
    passes = [rows[a:b] for a, b in zip([0, *starts], [*starts, 1000], strict=True)]
    assert all(p == sorted(set(p)) for p in passes)
    assert 17 <= len(passes) <= 23  # of 50 items each on average
    assert passes[0] != passes[1]
    again = RepeatToLength([Named("", 100)], [1.0], 1000, keep=0.5, seed=3)
    assert items(again) == items(data)
    other = RepeatToLength([Named("", 100)], [1.0], 1000, keep=0.5, seed=4)
    assert items(other) != items(data)


@pytest.mark.parametrize(
    ("sizes", "shares", "options", "message"),
    [
        ([2, 2], [1.0], {}, "shares must be 2 positive numbers"),
        ([2, 2], [1.0, 0.0], {}, "shares must be 2 positive numbers"),
        ([2, 2], [0.5, 0.6], {}, "shares must add up to 1, got 1.1"),
        ([2, 0], [0.5, 0.5], {}, r"sources must not be empty, got sizes \[2, 0\]"),
        ([2], [1.0], {"keep": 0.0}, r"keep must lie in \(0, 1\], got 0.0"),
    ],
)
def test_repeat_to_length_errors(
    sizes: list[int], shares: list[float], options: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        RepeatToLength([Named("a", n) for n in sizes], shares, 10, **options)  # type: ignore[arg-type]


def test_subsample_to_counts() -> None:
    labels = torch.arange(90) % 3
    rows = subsample_to_counts(labels, imbalanced_counts(30, 3, 9), seed=1)
    assert torch.bincount(labels[rows]).tolist() == [30, 10, 3]
    assert len(rows.unique()) == 43
    assert torch.equal(rows, subsample_to_counts(labels, [30, 10, 3], seed=1))
    assert not torch.equal(rows, subsample_to_counts(labels, [30, 10, 3], seed=2))
    assert torch.equal(subsample_to_counts(labels, [4, 4, 4]), balanced_indices(labels, 4))
    assert subsample_to_counts(labels, [0, 0, 1]).tolist()[0] % 3 == 2


def test_subsample_to_counts_errors() -> None:
    labels = torch.tensor([0, 0, 1])
    with pytest.raises(ValueError, match=r"^class 1 has 1 images, 2 were asked for$"):
        subsample_to_counts(labels, [2, 2])
    with pytest.raises(ValueError, match=r"^class 'Fear' has 0 images, 1 were asked for$"):
        subsample_to_counts(labels, [0, 0, 1], classes=["Sad", "Anger", "Fear"])
    with pytest.raises(ValueError, match=r"^counts must not be negative, got \[-1\]$"):
        subsample_to_counts(labels, [-1])


def test_paired_flip_mirrors_after_the_augmentation() -> None:
    def augment(images: Tensor, keys: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(int(keys[0]))
        return torch.rand(images.shape, generator=generator)

    images = torch.zeros(2, 3, 4, 5, dtype=torch.uint8)
    data = PairedFlip(LabelledImages(images, {"label": torch.tensor([3, 4])}, augment))
    item = data[(1, 7)]
    assert len(data) == 2
    assert item["label"] == 4
    assert item["image"].std() > 0.1
    assert torch.equal(item["mirror"], item["image"].flip(-1))
