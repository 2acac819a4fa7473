"""Where the images of a list lie: files, records, bytes in memory, or pixels in memory."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facekernels.data.report import printable

if TYPE_CHECKING:
    from PIL import Image


class UnreadableImage(ValueError):
    """A missing or damaged image; the message names it."""


class Images(Protocol):
    """A sequence of images that are read one by one."""

    def __len__(self) -> int: ...

    def name(self, row: int) -> str:
        """What to call the image in a message: its path, or its place in a file."""

    def read(self, row: int) -> Tensor:
        """``[3, H, W]`` uint8 RGB.

        Raises:
            UnreadableImage: the image is missing or damaged.
        """

    def subset(self, rows: Sequence[int]) -> Images:
        """These images in this order."""


class ImageFiles:
    """Image files.

    Args:
        paths: of the files.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = tuple(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, row: int) -> str:
        return self.paths[row]

    def read(self, row: int) -> Tensor:
        return decode(self.paths[row], self.name(row))

    def subset(self, rows: Sequence[int]) -> ImageFiles:
        return ImageFiles([self.paths[i] for i in rows])


class EncodedImages:
    """JPEG or PNG files in memory.

    Args:
        encoded: contents of the files.
        origin: the file they came from, for messages.
    """

    def __init__(self, encoded: Sequence[bytes], origin: str) -> None:
        self.encoded, self.origin = list(encoded), origin
        self._rows = range(len(encoded))

    def __len__(self) -> int:
        return len(self.encoded)

    def name(self, row: int) -> str:
        return f"{self.origin}: image {self._rows[row]}"

    def read(self, row: int) -> Tensor:
        return decode(io.BytesIO(self.encoded[row]), self.name(row))

    def subset(self, rows: Sequence[int]) -> EncodedImages:
        chosen = EncodedImages([self.encoded[i] for i in rows], self.origin)
        chosen._rows = [self._rows[i] for i in rows]  # type: ignore[assignment]
        return chosen


class PixelImages:
    """Grey images in memory.

    Args:
        pixels: ``[N, H, W]`` uint8.
        names: of the images, for messages.
    """

    def __init__(self, pixels: NDArray[np.uint8], names: Sequence[str]) -> None:
        self.pixels, self.names = pixels, list(names)

    def __len__(self) -> int:
        return len(self.pixels)

    def name(self, row: int) -> str:
        return self.names[row]

    def read(self, row: int) -> Tensor:
        return torch.from_numpy(self.pixels[row]).expand(3, -1, -1).contiguous()

    def subset(self, rows: Sequence[int]) -> PixelImages:
        return PixelImages(self.pixels[list(rows)], [self.names[i] for i in rows])


def decode(source: str | io.BytesIO, name: str) -> Tensor:
    """``[3, H, W]`` uint8 RGB of an image file or its contents, as `read_image` has it.

    Raises:
        UnreadableImage: it is missing, no image, or damaged; the message starts with `name`.
    """
    array = np.array(read_image(source, name))
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def read_image(source: str | io.BytesIO, name: str) -> Image.Image:
    """An image file or its contents in RGB, turned upright as its EXIF data says.

    Args:
        source: path of the file, or what it holds.
        name: what to call the image in a message.

    Raises:
        UnreadableImage: it is missing, no image, or damaged; the message starts with `name`.
    """
    from PIL import Image

    try:
        with Image.open(source) as file:
            upright = _UPRIGHT.get(file.getexif().get(_ORIENTATION, 1))
            image = file if upright is None else file.transpose(Image.Transpose[upright])
            return _eight_bits(image, file.format).convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # damage of one format or another makes Pillow raise anything
        text = printable(f"{name} cannot be read as an image: {error}")
        raise UnreadableImage(text) from error


_ORIENTATION = 0x0112  # the EXIF tag

# The `PIL.Image.Transpose` that turns an image of this orientation upright. Pillow's own function
# also writes the other tags anew, which fails where one of them is odd.
_UPRIGHT = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE",
            6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90"}  # fmt: skip


def _eight_bits(image: Image.Image, form: str | None) -> Image.Image:
    """Scale 16 bits of grey to 8, which Pillow would clip.

    Raises:
        ValueError: the pixels have no known range.
    """
    from PIL import Image

    # Mode I has 32 bits; of these formats, the values are nevertheless of 16.
    if image.mode.startswith("I;16") or (image.mode == "I" and form in ("PNG", "PPM")):
        wide = np.asarray(image).astype(np.int32)
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no known range")
    return image
