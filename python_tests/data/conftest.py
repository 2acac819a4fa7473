"""Tiny data sets, written as they are distributed."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL")


@pytest.fixture
def jpeg() -> Callable[[int], bytes]:
    """A small grey JPEG of this brightness."""

    def make(value: int = 128, side: int = 16) -> bytes:
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(buffer, "JPEG")
        return buffer.getvalue()

    return make


@pytest.fixture
def put(jpeg: Callable[[int], bytes]) -> Callable[..., Path]:
    """Write a file, and its folders: text, bytes, or the JPEG of a brightness."""

    def write(path: Path, content: str | bytes | int = 128) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, int):
            content = jpeg(content)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write
