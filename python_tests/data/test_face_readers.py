"""CelebA, ages, folders of persons; decoding, and what cannot be decoded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from facekernels.data.image_list import ImageListDataset, check_images
from facekernels.data.image_sources import UnreadableImage, decode
from facekernels.data.label_files import DataSetWarning
from facekernels.data.labels import ATTRIBUTES, CELEBA_ATTRIBUTES
from facekernels.data.readers import (
    read_age_gender,
    read_celeba,
    read_clap,
    read_identities,
)

Put = Callable[..., Path]


@pytest.fixture
def celeba(tmp_path: Path, put: Put) -> Path:
    """Image i of six has attribute i (CelebA's order) and no other; two for each split."""
    rows, splits = ["6", " ".join(CELEBA_ATTRIBUTES)], []
    for i in range(6):
        name = f"{i + 1:06d}.jpg"
        put(tmp_path / "Img/img_align_celeba" / name)
        values = ["1" if j == i else "-1" for j in range(40)]
        rows.append(f"{name}  {' '.join(values)}")
        splits.append(f"{name} {i // 2}")
    put(tmp_path / "Anno/list_attr_celeba.txt", "\n".join(rows) + "\n")
    put(tmp_path / "list_eval_partition.txt", "\r\n".join(splits))
    return tmp_path


def test_celeba_in_swinface_order(celeba: Path) -> None:
    for split, rows in (("train", (0, 1)), ("val", (2, 3)), ("test", (4, 5))):
        found = read_celeba(celeba, split, strict=True)
        assert found.labels["attributes"].dtype is torch.int8
        names = [ATTRIBUTES[int(row.nonzero())] for row in found.labels["attributes"]]
        plain = [name.replace("Five O'Clock", "5 o Clock").replace(" ", "_") for name in names]
        assert plain == [CELEBA_ATTRIBUTES[i] for i in rows]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        ("Anno/list_attr_celeba.txt", "000002.jpg  -1", "000002.jpg  7",
         "attr_celeba.txt:4: label out of range: expected 1 or -1, got 7"),
        ("Anno/list_attr_celeba.txt", "000002.jpg  -1", "000002.jpg ",
         "attr_celeba.txt:4: unreadable line: expected a name and 40 values, got 40 words"),
        ("Anno/list_attr_celeba.txt", "6\n", "7\n",
         "attr_celeba.txt:1: unreadable line: says 7 rows, there are 6"),
        ("list_eval_partition.txt", "000002.jpg 0", "000002.jpg 3",
         "partition.txt:2: label out of range: expected 0, 1 or 2, got 3"),
        ("list_eval_partition.txt", "000002.jpg 0", "000001.jpg 0",
         "partition.txt:2: duplicate entry: 000001.jpg has a split already"),
        ("list_eval_partition.txt", "000002.jpg 0", "x.jpg 0",
         "attr_celeba.txt:4: unreadable line: 000002.jpg is not in"),
    ],
)  # fmt: skip
def test_celeba_problems(celeba: Path, file: str, old: str, new: str, problem: str) -> None:
    edit(celeba / file, old, new)
    with pytest.raises(ValueError, match=problem):
        read_celeba(celeba, strict=True)
    with pytest.warns(DataSetWarning):
        assert not read_celeba(celeba).report.ok


def test_celeba_with_other_attributes(celeba: Path) -> None:
    edit(celeba / "Anno/list_attr_celeba.txt", "Male", "Boy")
    with pytest.raises(ValueError, match="must begin with the number of rows and the 40 names"):
        read_celeba(celeba)


@pytest.fixture
def adience(tmp_path: Path, put: Put) -> Path:
    for name in "abcd":
        put(tmp_path / f"data/{name}.jpg")
    put(tmp_path / "label.txt", "path age gender\na.jpg 25.0 1.0\nb.jpg 3 0\nc.jpg nan 1.0\n")
    return tmp_path


def test_age_gender(adience: Path) -> None:
    found = read_age_gender(adience, strict=True)
    assert found.labels["age"].tolist() == [25, 3]
    assert found.labels["gender"].tolist() == [1, 0]
    assert found.labels["age"].dtype is torch.float32
    assert found.report.left_out == {"age or gender is nan": 1}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("d.jpg 25", "unreadable line: expected PATH AGE GENDER, got 'd.jpg 25'"),
        ("d.jpg 25 1 1", "unreadable line"),
        ("d.jpg young 1", "unreadable line"),
        ("d.jpg -3 1", "label out of range: expected an age of 0 to 120, got -3"),
        ("d.jpg inf 1", "label out of range: expected an age"),
        ("d.jpg 25 2", "label out of range: expected gender 0 or 1, got 2"),
        ("e.jpg 25 1", "missing file: .*data/e.jpg does not exist"),
        ("../data/a.jpg 25 1", "duplicate entry: .* is in .*label.txt:2 already"),
    ],
)
def test_age_gender_problems(adience: Path, line: str, problem: str) -> None:
    with (adience / "label.txt").open("a") as file:
        file.write(line)
    with pytest.raises(ValueError, match=f"label.txt:5: {problem}"):
        read_age_gender(adience, strict=True)
    with pytest.warns(DataSetWarning):
        assert len(read_age_gender(adience)) == 2


@pytest.mark.parametrize(
    "text", ["a.jpg;25.5;3.0\nb.jpg;30;1.5\n", "image,mean,stdv\r\na.jpg,25.5,3\r\nb.jpg,30,1.5"]
)
@pytest.mark.parametrize(
    ("label_file", "images"),
    [("label.csv", "data"), ("train_gt.csv", "train"), ("train/label.csv", "train/data")],
)
def test_clap(text: str, label_file: str, images: str, tmp_path: Path, put: Put) -> None:
    put(tmp_path / label_file, text)
    put(tmp_path / images / "a.jpg")
    put(tmp_path / images / "b.jpg")
    found = read_clap(tmp_path, strict=True)
    assert found.labels["age"].tolist() == [25.5, 30]
    assert found.labels["std"].tolist() == [3, 1.5]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("b.jpg;25", "unreadable line: expected IMAGE, MEAN, STD"),
        ("b.jpg;x;3", "unreadable line"),
        ("b.jpg;25;0", "label out of range: expected a deviation above 0, got 0"),
        ("b.jpg;250;1", "label out of range: expected an age of 0 to 120, got 250"),
    ],
)
def test_clap_problems(line: str, problem: str, tmp_path: Path, put: Put) -> None:
    put(tmp_path / "data/a.jpg")
    put(tmp_path / "data/b.jpg")
    put(tmp_path / "label.csv", f"a.jpg;25;3\n{line}\n")
    with pytest.raises(ValueError, match=f"label.csv:2: {problem}"):
        read_clap(tmp_path, strict=True)


def test_identities(tmp_path: Path, put: Put) -> None:
    for name in ("m/2.jpg", "m/1.jpg", "f/deep/1.png"):
        put(tmp_path / name)
    found = read_identities(tmp_path, strict=True)
    assert found.classes == ("f", "m")
    assert found.labels["label"].tolist() == [0, 1, 1]
    assert found.images.name(1).endswith("m/1.jpg")
    (tmp_path / "nobody").mkdir()
    with pytest.raises(ValueError, match="empty class: no image of nobody"):
        read_identities(tmp_path, strict=True)
    with pytest.raises(FileNotFoundError, match="holds no image"):
        read_identities(tmp_path / "nobody")


def test_items_are_decoded_and_only_draws_are_augmented(tmp_path: Path, put: Put) -> None:
    put(tmp_path / "a/1.jpg", 10)
    put(tmp_path / "b/1.jpg", 200)

    def transform(image: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        mean = image.float().mean().round()
        return mean if generator is None else mean + torch.rand((), generator=generator)

    data = ImageListDataset(read_identities(tmp_path), transform)
    assert len(data) == 2
    assert [abs(float(data[i]["image"]) - v) <= 1 for i, v in enumerate((10, 200))] == [True] * 2
    assert data[1]["label"] == 1
    assert data[(0, 7)]["image"] == data[(0, 7)]["image"]
    assert data[(0, 7)]["image"] != data[(0, 8)]["image"]
    assert ImageListDataset(data_list := read_identities(tmp_path))[0]["image"].shape == (3, 16, 16)
    assert data_list.subset([1]).labels["label"].tolist() == [1]


def test_damaged_images_are_errors_and_are_counted(
    tmp_path: Path, put: Put, jpeg: Callable[..., bytes]
) -> None:
    noise = jpeg(90, 64)
    put(tmp_path / "a/0.jpg")
    put(tmp_path / "a/1.jpg", noise[: len(noise) // 2])  # cut off
    put(tmp_path / "a/2.jpg", "no image")
    put(tmp_path / "a/3.jpg", b"")
    found = read_identities(tmp_path)
    data = ImageListDataset(found)
    assert data[0]["image"].dtype is torch.uint8
    for row in (1, 2, 3):
        with pytest.raises(UnreadableImage, match=f"a/{row}.jpg cannot be read as an image: "):
            data[row]
    (tmp_path / "a/0.jpg").unlink()
    with pytest.raises(UnreadableImage, match=r"a/0\.jpg cannot be read as an image: .*No such"):
        data[0]
    assert check_images(found.images, found.report) == [0, 1, 2, 3]
    assert found.report.counts == {"unreadable image": 4}


@pytest.mark.parametrize("orientation", range(9))
def test_images_are_read_upright(orientation: int, tmp_path: Path) -> None:
    """As Pillow's own function turns them; 0 is no orientation."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    exif, path = Image.Exif(), str(tmp_path / "turned.png")
    exif[274] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    with Image.open(path) as file:
        expected = np.asarray(ImageOps.exif_transpose(file))
    assert np.array_equal(decode(path, path).permute(1, 2, 0).numpy(), expected)


def test_check_images_is_evenly_spaced(tmp_path: Path, put: Put) -> None:
    for i in range(10):
        put(tmp_path / f"a/{i}.jpg", "no image" if i % 2 else 128)
    found = read_identities(tmp_path)
    assert check_images(found.images, found.report, 5) == []
    assert check_images(found.images, found.report, 10) == [1, 3, 5, 7, 9]
    assert check_images(found.images, found.report, 100) == [1, 3, 5, 7, 9]
