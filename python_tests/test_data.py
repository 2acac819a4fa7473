"""The embedded data: what it holds, and that it never asks the network."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch

from facekernels import data
from facekernels.data import embedded

pytest.importorskip("skimage")
pytest.importorskip("PIL")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was used")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)


@pytest.mark.usefixtures("no_network")
def test_lfw_crops_hold_100_faces_then_100_backgrounds() -> None:
    crops = data.lfw_crops()
    assert crops.images.shape == (200, 1, 25, 25)
    assert crops.images.dtype is torch.float32
    assert crops.images.min() == 0
    assert crops.images.max() == 1
    assert crops.labels.tolist() == [1] * 100 + [0] * 100
    # Faces look like their mean, backgrounds do not; and no face is there twice.
    face = crops.images[:100].mean(0).flatten()
    alike = torch.stack(
        [torch.corrcoef(torch.stack([c.flatten(), face]))[0, 1] for c in crops.images]
    )
    assert alike[:100].mean() > 0.5
    assert alike[100:].nanmean() < 0.1
    assert len(torch.unique(crops.images[:100], dim=0)) == 100


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", data.PHOTOGRAPHS)
def test_photographs(name: str) -> None:
    photo = data.photograph(name)
    assert photo.dtype is torch.uint8
    assert photo.ndim == 3
    assert photo.shape[0] == 3
    assert min(photo.shape[1:]) >= 300
    assert photo.float().std() > 20  # a picture, not a blank


def test_astronaut_is_oriented_and_in_rgb() -> None:
    photo = data.photograph("astronaut")
    assert photo.shape == (3, 512, 512)
    red, _, blue = photo[:, 350:400, 60:110].float().mean((1, 2))  # the orange suit
    assert red > 2 * blue


def test_faceless_photographs_are_photographs_without_the_astronaut() -> None:
    assert set(data.FACELESS) <= set(data.PHOTOGRAPHS) - {"astronaut", "camera", "chelsea"}


def test_unknown_photograph() -> None:
    with pytest.raises(ValueError, match=r"^name must be one of astronaut, .*, got 'lena'$"):
        data.photograph("lena")


def test_file_missing_from_scikit_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(embedded._FILES, "astronaut", "not_there.png")
    with pytest.raises(FileNotFoundError, match=r"not_there\.png is not part of the installed"):
        data.photograph("astronaut")


def test_without_scikit_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install 'facekernels") as caught:
        data.lfw_crops()
    assert caught.value.name == "skimage"


def test_wrong_lfw_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import numpy as np

    np.save(tmp_path / "lfw.npy", np.zeros((3, 25, 25)))
    monkeypatch.setattr(embedded, "_path", lambda file: tmp_path / "lfw.npy")
    with pytest.raises(ValueError, match=r"must hold an array of shape \(200, 25, 25\), got \(3,"):
        data.lfw_crops()
