from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from facekernels.data import balanced_indices, digits, image_folder, read_image_folder
from facekernels.systems.sga.data import split


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    for c, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for i in range(4):
            array = np.full((40, 60, 3), 100 * c + 10 * i, np.uint8)
            Image.fromarray(array).save(root / name / f"{i}.png")
    return root


def test_balanced_draw() -> None:
    labels = torch.tensor([0] * 10 + [1] * 5 + [2] * 7)
    rows = balanced_indices(labels, 4, seed=3)
    assert labels[rows].bincount().tolist() == [4, 4, 4]
    assert len(rows.unique()) == 12
    assert torch.equal(rows, balanced_indices(labels, 4, seed=3))
    assert not torch.equal(rows, balanced_indices(labels, 4, seed=4))
    with pytest.raises(ValueError, match="class 1 has 5 images, 6 were asked for"):
        balanced_indices(labels, 6)
    with pytest.raises(ValueError, match="class 'b' has 0 images"):
        balanced_indices(torch.tensor([0, 0]), 1, classes=["a", "b"])


def test_folder_order_values_and_classes(folder: Path) -> None:
    found = read_image_folder(folder, size=16)
    assert found.classes == ("cat", "dog")
    assert found.labels.tolist() == [0] * 4 + [1] * 4
    assert found.images.dtype is torch.uint8
    assert found.images.shape == (8, 3, 16, 16)
    assert found.images.flatten(1).float().std(1).max() == 0
    assert found.images[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 100, 110, 120, 130]


def test_centre_is_cropped(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    array = np.zeros((20, 60), np.uint8)
    array[:, 20:40] = 200  # the middle third
    Image.fromarray(array).save(tmp_path / "a" / "x.png")
    found = read_image_folder(tmp_path, size=20, resize=20, grey=True)
    assert found.images.shape == (1, 1, 20, 20)
    assert int(found.images.min()) == 200


def test_unreadable_files_are_named_and_counted(folder: Path) -> None:
    (folder / "cat" / "1.png").write_bytes(b"no image")
    with pytest.warns(UserWarning, match=r"1 of 8 files .* cat/1.png"):
        found = read_image_folder(folder, size=16)
    assert found.unreadable == ("cat/1.png",)
    assert found.images[:, 0, 0, 0].tolist() == [0, 20, 30, 100, 110, 120, 130]
    assert found.labels.tolist() == [0] * 3 + [1] * 4
    with pytest.raises(ValueError, match=r"cat/1.png cannot be read as an image"):
        read_image_folder(folder, size=16, strict=True)


def test_images_are_upright_and_too_large_ones_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    halves = np.repeat(np.array([[50], [150]], np.uint8), 16, 0).repeat(32, 1)
    exif = Image.Exif()
    exif[274] = 3  # stored upside down
    Image.fromarray(halves[::-1]).save(folder / "cat" / "0.png", exif=exif)
    Image.new("L", (200, 200)).save(folder / "cat" / "1.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with pytest.warns(UserWarning, match=r"1 of 8 files .* cat/1.png"):
        found = read_image_folder(folder, size=32, resize=32)
    assert found.images[0, 0, :, 0].tolist() == [50] * 16 + [150] * 16


def test_cache_is_used_only_for_the_same_files_and_options(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, reads = tmp_path / "cache.safetensors", []
    real = image_folder._read_image

    def counted(path: Path, *options: object) -> torch.Tensor:
        reads.append(path)
        return real(path, *options)  # type: ignore[arg-type]

    monkeypatch.setattr(image_folder, "_read_image", counted)

    def read(size: int = 16) -> int:
        reads.clear()
        found = read_image_folder(folder, size=size, cache=cache)
        fresh = read_image_folder(folder, size=size)
        assert torch.equal(found.images, fresh.images)
        assert torch.equal(found.labels, fresh.labels)
        assert found.classes == fresh.classes
        return len(reads) - len(fresh)

    assert [read(), read()] == [8, 0]
    assert [read(17), read(17)] == [8, 0]
    Image.fromarray(np.full((30, 30, 3), 77, np.uint8)).save(folder / "cat" / "0.png")
    assert [read(17), read(17)] == [8, 0]
    cache.write_bytes(b"damaged")
    assert [read(17), read(17)] == [8, 0]


def test_cache_remembers_what_was_unreadable(folder: Path, tmp_path: Path) -> None:
    (folder / "dog" / "2.png").write_bytes(b"")
    cache = tmp_path / "cache.safetensors"
    for _ in range(2):
        with pytest.warns(UserWarning, match="dog/2.png"):
            read_image_folder(folder, size=16, cache=cache)
    with pytest.raises(ValueError, match=r"dog/2.png"):
        read_image_folder(folder, size=16, cache=cache, strict=True)


def test_drawn_files_only(folder: Path) -> None:
    found = read_image_folder(folder, size=16, per_class=3, seed=1)
    assert found.labels.bincount().tolist() == [3, 3]
    again = read_image_folder(folder, size=16, per_class=3, seed=1)
    assert torch.equal(found.images, again.images)
    with pytest.raises(ValueError, match="class 'cat' has 4 images, 5 were asked for"):
        read_image_folder(folder, per_class=5)


def test_bad_folders_and_sizes(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="not a folder"):
        read_image_folder(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="no image"):
        read_image_folder(tmp_path)
    with pytest.raises(ValueError, match="resize at least size, got 16 and 8"):
        read_image_folder(tmp_path, size=16, resize=8)


def test_digits_are_stretched() -> None:
    images, labels = digits()
    assert images.shape == (1797, 1, 8, 8)
    assert len(images.unique()) == 17
    assert (int(images.min()), int(images.max())) == (0, 255)
    assert labels[:10].tolist() == list(range(10))


@pytest.mark.parametrize("name", ["digits", "faces"])
def test_split_shares_no_image(name: str) -> None:
    data, total = split(name, 0), {"digits": 1797, "faces": 200}[name]
    assert len(data.train) + len(data.held_out) == total
    assert len(data.labels.bincount().unique()) == 1
    counts = (data.labels.bincount() + data.held_out_labels.bincount()).tolist()
    everything = digits().labels if name == "digits" else torch.arange(200) // 100
    assert counts == everything.bincount().tolist()
    assert not torch.equal(data.train, split(name, 1).train)
