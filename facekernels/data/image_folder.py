"""Images of a folder as one uint8 tensor, kept in a cache file."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from facekernels.data.balanced import balanced_indices
from facekernels.data.files import replacing
from facekernels.data.image_sources import UnreadableImage, read_image

IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
"""What counts as an image in a folder, in lower case."""

_FORMAT = "facekernels image cache 2"


@dataclass(frozen=True)
class ImageCache:
    """Images in memory (or mapped from the cache file) with their classes."""

    images: Tensor
    """``[N, C, H, W]`` uint8."""
    labels: Tensor
    """``[N]`` int64, positions in `classes`."""
    classes: tuple[str, ...]
    """Folder names in sorted order."""
    unreadable: tuple[str, ...] = ()
    """Files left out because they could not be read, relative to the root."""

    def __len__(self) -> int:
        return len(self.images)


def read_image_folder(
    root: str | Path,
    *,
    size: int = 224,
    resize: int | None = None,
    grey: bool = False,
    per_class: int | None = None,
    seed: int = 0,
    strict: bool = False,
    cache: str | Path | None = None,
) -> ImageCache:
    """Read ``root/class/file`` (the layout of ImageNet and of torchvision's ImageFolder).

    Images are turned upright as their EXIF data says; the shorter side is resized (bilinear,
    antialiased) and the centre is cut out, as the usual evaluation transform does. Files are taken
    in sorted order, also inside nested folders; images keep that order unless `per_class` draws
    some of them.

    Args:
        root: the folder of class folders.
        size: pixels along each side of the crop.
        resize: length of the shorter side before the crop; default ``round(size * 256 / 224)``.
        grey: one channel (luma) instead of RGB.
        per_class: draw this many files of each class with `balanced_indices` before any is read.
            A drawn file that turns out unreadable is not replaced by another one.
        seed: of that draw.
        strict: raise at the first unreadable file instead of leaving it out with a warning.
        cache: a safetensors file to keep the result in. It is used only if the files (paths, sizes,
            modification times) and all the options above are the same, else written anew,
            atomically.

    Returns:
        `ImageCache`; a file holds N * C * size * size bytes, a quarter of float32.

    Raises:
        FileNotFoundError: no such folder, or no image in it.
        ValueError: an option out of range, a class with too few files, or, with `strict`, an
            unreadable file, by name.
    """
    root = Path(root)
    short = round(size * 256 / 224) if resize is None else resize
    if size < 1 or short < size:
        raise ValueError(
            f"size must be at least 1 and resize at least size, got {size} and {short}"
        )
    files, labels, classes = class_folder_files(root)
    if per_class is not None:
        rows = balanced_indices(labels, per_class, seed=seed, classes=classes)
        files, labels = [files[i] for i in rows.tolist()], labels[rows]
    key = _key(root, files, [size, short, grey])
    found = _load(Path(cache), key) if cache is not None else None
    if found is None:
        found = _read(root, files, labels, classes, size, short, grey, strict)
        if cache is not None:
            _save(Path(cache), key, found)
    if found.unreadable:
        message = _unreadable_message(found.unreadable, len(files), root)
        if strict:
            raise ValueError(message)
        warnings.warn(message, stacklevel=2)
    return found


def class_folder_files(root: Path) -> tuple[list[Path], Tensor, tuple[str, ...]]:
    """Image files of ``root/class/**``, the class of each, and the classes' names, all sorted.

    Raises:
        FileNotFoundError: no such folder, or no image in it.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder")
    classes = tuple(sorted(p.name for p in root.iterdir() if p.is_dir()))
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        for path in sorted((root / name).rglob("*")):
            if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
                files.append(path)
                labels.append(label)
    if not files:
        raise FileNotFoundError(f"{root} holds no image in the layout class/file")
    return files, torch.tensor(labels), classes


def _read(
    root: Path,
    files: Sequence[Path],
    labels: Tensor,
    classes: tuple[str, ...],
    size: int,
    short: int,
    grey: bool,
    strict: bool,
) -> ImageCache:
    # Written in place, so that the peak is one copy of the set.
    images = torch.empty(len(files), 1 if grey else 3, size, size, dtype=torch.uint8)
    kept: list[int] = []
    unreadable: list[str] = []
    for i, path in enumerate(files):
        try:
            images[len(kept)] = _read_image(path, size, short, grey)
        except UnreadableImage:
            if strict:
                raise
            unreadable.append(path.relative_to(root).as_posix())
            continue
        kept.append(i)
    return ImageCache(images[: len(kept)], labels[kept], classes, tuple(unreadable))


def _read_image(path: Path, size: int, short: int, grey: bool) -> Tensor:
    from PIL import Image

    image = read_image(str(path), str(path))
    if grey:
        image = image.convert("L")
    scale = short / min(image.size)
    width, height = (max(short, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    array = np.array(image.crop((left, top, left + size, top + size)))
    return torch.from_numpy(array).view(size, size, -1).permute(2, 0, 1)


def _unreadable_message(names: Sequence[str], total: int, root: Path) -> str:
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"{len(names)} of {total} files in {root} cannot be read as images: {shown}"


def _key(root: Path, files: Sequence[Path], transform: list[object]) -> str:
    described = []
    for path in files:
        status = path.stat()
        described.append([path.relative_to(root).as_posix(), status.st_size, status.st_mtime_ns])
    text = json.dumps([_FORMAT, str(root.resolve()), transform, described])
    return hashlib.sha256(text.encode()).hexdigest()


def _save(path: Path, key: str, found: ImageCache) -> None:
    from safetensors.torch import save_file

    header = {"key": key, "classes": json.dumps(found.classes),
              "unreadable": json.dumps(found.unreadable)}  # fmt: skip
    with replacing(path) as temporary:
        save_file({"images": found.images, "labels": found.labels}, temporary, header)


def _load(path: Path, key: str) -> ImageCache | None:
    """What `_save` wrote, or None if it is of other files, damaged, or not there."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            if header.get("key") != key:
                return None
            return ImageCache(file.get_tensor("images"), file.get_tensor("labels"),
                              tuple(json.loads(header["classes"])),
                              tuple(json.loads(header["unreadable"])))  # fmt: skip
    except SafetensorError:
        return None
