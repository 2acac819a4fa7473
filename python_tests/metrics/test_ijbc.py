"""Template pooling and scores by hand, against the loop of the definition, and the meta files."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from facekernels.metrics import (
    TemplatePairs,
    Templates,
    pair_scores,
    pool_templates,
    read_template_images,
    read_template_media,
    read_template_pairs,
    tar_at_far,
    template_verification,
)


def test_pooling_by_hand() -> None:
    """A video of three frames counts as much as a photograph."""
    features = torch.tensor([[6.0, 0], [0, 0], [0, 3], [0, 2], [5, 0], [0, 3], [0, 0]])
    templates = torch.tensor([7, 7, 7, 7, 3, 3, 7])
    media = torch.tensor([1, 1, 1, 2, 1, 1, 9])
    found = pool_templates(features, templates, media)
    assert found.ids.tolist() == [3, 7]
    # 3: one medium, the mean of (5, 0) and (0, 3). 7: (2, 1) + (0, 2) + (0, 0).
    expected = torch.tensor([[2.5, 1.5], [2.0, 3.0]])
    expected /= torch.tensor([[math.sqrt(8.5)], [math.sqrt(13.0)]])
    torch.testing.assert_close(found.features, expected)


def by_the_definition(features: Tensor, templates: Tensor, media: Tensor) -> Tensor:
    pooled = []
    for template in sorted(set(templates.tolist())):
        mine = templates == template
        total = torch.zeros(features.shape[1], dtype=torch.float64)
        for medium in set(media[mine].tolist()):
            total += features[mine & (media == medium)].double().mean(0)
        pooled.append(total / total.norm())
    return torch.stack(pooled).float()


def test_pooling_by_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(500, 8, generator=generator)
    templates = torch.randint(40, (500,), generator=generator) * 1000
    media = torch.randint(6, (500,), generator=generator)
    found = pool_templates(features, templates, media)
    torch.testing.assert_close(found.features, by_the_definition(features, templates, media))


def test_scores_and_rates() -> None:
    angles = torch.tensor([0.0, 0.1, 1.0, 1.3]).double()
    features = torch.stack([angles.cos(), angles.sin()], 1).float()
    ids = torch.tensor([2, 3, 5, 9])
    pairs = TemplatePairs(
        torch.tensor([3, 9, 2, 2, 3]), torch.tensor([2, 5, 5, 9, 9]),
        torch.tensor([True, True, False, False, False]),
    )  # fmt: skip
    scores = pair_scores(Templates(features, ids), pairs)
    torch.testing.assert_close(scores, torch.tensor([0.1, 0.3, 1.0, 1.3, 1.2]).cos())
    rates = template_verification(features * 3, ids, torch.zeros(4).long(), pairs, (1e-6, 0.4))
    assert rates == tar_at_far(scores, pairs.same, (1e-6, 0.4)) == [1.0, 1.0]


def test_scores_do_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.nn.functional.normalize(torch.randn(50, 4))
    templates = Templates(features, torch.arange(50))
    first, second = torch.randint(50, (2, 333))
    pairs = TemplatePairs(first, second, first == second)
    whole = pair_scores(templates, pairs)
    monkeypatch.setattr("facekernels.metrics.ijbc._CHUNK", 10)
    assert torch.equal(pair_scores(templates, pairs), whole)


def test_meta_files(tmp_path: Path) -> None:
    (tmp_path / "tid_mid.txt").write_text("1.jpg 1 69544\r\n2.jpg 1 69544\n3#.jpg 12 7\n")
    templates, media = read_template_media(tmp_path / "tid_mid.txt")
    assert templates.tolist() == [1, 1, 12]
    assert media.tolist() == [69544, 69544, 7]
    (tmp_path / "pairs.txt").write_text("1 12 1\n12 1 0\n")
    pairs = read_template_pairs(tmp_path / "pairs.txt")
    assert pairs.first.tolist() == [1, 12]
    assert pairs.second.tolist() == [12, 1]
    assert pairs.same.tolist() == [True, False]


def test_landmarks_and_scores(tmp_path: Path) -> None:
    path = tmp_path / "name_5pts_score.txt"
    path.write_text("1#.jpg 1 2 3 4 5 6 7 8 9.5 10 0.75\n2.jpg" + " 0" * 11)
    found = read_template_images(path)
    assert found.names == ("1#.jpg", "2.jpg")
    assert found.landmarks[0].tolist() == [[1, 2], [3, 4], [5, 6], [7, 8], [9.5, 10]]
    assert found.scores.tolist() == [0.75, 0]
    for text, message in (
        ("1.jpg 1 2 0.75", r"must hold numbers in columns \(1, 2, .*11\): .* row 1"),
        ("1.jpg" + " 1" * 10 + " inf", "image 1 must have finite landmarks and score"),
        ("", "is empty"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_template_images(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "pairs.txt is empty"),
        ("1 2 1\n1 2\n", "pairs.txt must hold integers in columns .* row 2"),
        ("1 2 1\n1 x 1\n", "pairs.txt must hold integers in columns .*'x'.* row 1"),
        ("1 2 1\n1 2 3\n", "pairs.txt: pair 2 must have the label 0 or 1, got 3"),
    ],
)
def test_damaged_meta_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_template_pairs(tmp_path / "pairs.txt")
    with pytest.raises(FileNotFoundError, match="nowhere is not a file"):
        read_template_media(tmp_path / "nowhere")


def test_errors() -> None:
    one = torch.zeros(1).long()
    with pytest.raises(
        ValueError, match=r"^features must be \[N, D\], N >= 1, got shape \(0, 4\)$"
    ):
        pool_templates(torch.zeros(0, 4), one[:0], one[:0])
    with pytest.raises(ValueError, match=r"^media must be \[1\], got shape \(2,\)$"):
        pool_templates(torch.zeros(1, 4), one, torch.zeros(2))
    with pytest.raises(ValueError, match=r"templates that have images, got template 8$"):
        pair_scores(
            Templates(torch.ones(2, 3), torch.tensor([1, 2])),
            TemplatePairs(torch.tensor([1, 2]), torch.tensor([2, 8]), torch.tensor([True, False])),
        )
