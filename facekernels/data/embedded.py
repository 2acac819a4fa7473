"""Real images that lie inside the scikit-image and scikit-learn wheels.

The files are read straight from the installed package, not through `skimage.data`, whose loaders
download what they do not find: nothing here can reach the network.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_FILES = {
    "astronaut": "astronaut.png",
    "camera": "camera.png",
    "chelsea": "chelsea.png",
    "coffee": "coffee.png",
    "ihc": "ihc.png",
    "motorcycle": "motorcycle_left.png",
    "rocket": "rocket.jpg",
}

PHOTOGRAPHS: tuple[str, ...] = tuple(_FILES)
"""Names that `photograph` knows."""

FACELESS: tuple[str, ...] = ("coffee", "ihc", "motorcycle", "rocket")
"""Photographs without a face of any kind: sources of negatives."""


class FaceCrops(NamedTuple):
    """Grey crops and whether each shows a face."""

    images: Tensor
    """``[N, 1, 25, 25]`` float32 in [0, 1]."""
    labels: Tensor
    """``[N]`` int64: 1 for a face, 0 for background."""


def lfw_crops() -> FaceCrops:
    """100 aligned faces of Labeled Faces in the Wild and 100 crops of its backgrounds.

    Faces come first. Each crop is 25 x 25 grey pixels.

    Raises:
        ModuleNotFoundError: scikit-image is not installed.
        FileNotFoundError: the installed scikit-image does not hold the file.
        ValueError: the file is not what it should be.

    Source: scikit-image's `data/lfw_subset.npy`; Huang et al., Learning to Align from Scratch,
    NIPS 2012.
    """
    path = _path("lfw_subset.npy")
    array = np.load(path, allow_pickle=False)
    if array.shape != (200, 25, 25):
        raise ValueError(f"{path} must hold an array of shape (200, 25, 25), got {array.shape}")
    images = torch.from_numpy(array.astype(np.float32)).unsqueeze(1)
    labels = (torch.arange(len(images)) < 100).long()
    return FaceCrops(images, labels)


class Digits(NamedTuple):
    """Handwritten digits."""

    images: Tensor
    """``[1797, 1, 8, 8]`` uint8, 16 grey levels stretched to 0 .. 255."""
    labels: Tensor
    """``[1797]`` int64, 0 to 9."""


def digits() -> Digits:
    """1797 handwritten digits of 8 x 8 pixels, from 43 writers.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.

    Source: scikit-learn's `load_digits`, the test part of the UCI set "Optical Recognition of
    Handwritten Digits" (Alpaydin and Kaynak, 1998).
    """
    if find_spec("sklearn") is None:
        raise ModuleNotFoundError(
            "the digits are those of scikit-learn: pip install 'facekernels[systems]'",
            name="sklearn",
        )
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    return Digits(images, torch.from_numpy(bunch.target.astype(np.int64)))


def photograph(name: str) -> Tensor:
    """A photograph as ``[3, H, W]`` uint8 in RGB; grey ones repeat their channel.

    Args:
        name: one of `PHOTOGRAPHS`. ``"astronaut"`` (512 x 512) shows one frontal face.

    Raises:
        ValueError: another name.
        ModuleNotFoundError: scikit-image or Pillow is not installed.
        FileNotFoundError: the installed scikit-image does not hold the file.
    """
    from PIL import Image

    if name not in _FILES:
        raise ValueError(f"name must be one of {', '.join(PHOTOGRAPHS)}, got {name!r}")
    with Image.open(_path(_FILES[name])) as image:
        array = np.array(image.convert("RGB"))
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def _path(file: str) -> Path:
    spec = find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "the embedded images are those of scikit-image: pip install 'facekernels[demo]'",
            name="skimage",
        )
    path = Path(spec.submodule_search_locations[0]) / "data" / file
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not part of the installed scikit-image; reinstall scikit-image>=0.24"
        )
    return path
