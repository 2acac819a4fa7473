"""Random access to a file of MXNet's RecordIO format, without MXNet.

A record is a magic number, a word with the kind of the record (3 bits) and its length (29 bits),
the data, and zeros up to a multiple of 4 bytes. Data that contains the magic number at such an
address is written as several records without it: kind 1 begins, 2 goes on, 3 ends. A record of an
image begins with a header: flag, label (float32), and two 64-bit numbers; if the flag is n > 0, n
float32 labels follow and take the place of the one in the header.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_MAGIC = 0xCED7230A
_WORD = struct.Struct("<II")
_HEADER = struct.Struct("<IfQQ")
_LENGTH = (1 << 29) - 1
_CHUNK = 1 << 16


class DamagedRecord(ValueError):
    """A record that does not follow the format; the message names the file and the offset."""


class RecordFile:
    """Records of a file by their offsets.

    The file is mapped, not read. A copy in another process maps it anew.

    Args:
        path: the ``.rec`` file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._bytes = _map(self.path)

    def __getstate__(self) -> Path:
        return self.path

    def __setstate__(self, path: Path) -> None:
        self.path, self._bytes = path, _map(path)

    def record(self, offset: int) -> bytes:
        """The data of the record at this offset, put together from its parts.

        Raises:
            DamagedRecord: there is none.
        """
        parts: list[bytes] = []
        while True:
            if not 0 <= offset <= len(self._bytes) - _WORD.size:
                raise self._damaged(offset, "lies outside of the file")
            magic, word = _WORD.unpack_from(self._bytes[offset : offset + _WORD.size].tobytes())
            kind, length = word >> 29, word & _LENGTH
            start = offset + _WORD.size
            if magic != _MAGIC:
                raise self._damaged(offset, f"begins with {magic:#x}, expected {_MAGIC:#x}")
            if (kind in (0, 1)) != (not parts) or kind > 3:
                raise self._damaged(offset, f"is of kind {kind} after {len(parts)} parts")
            if start + length > len(self._bytes):
                raise self._damaged(offset, f"has {length} bytes, more than the file")
            parts.append(self._bytes[start : start + length].tobytes())
            if kind in (0, 3):
                return struct.pack("<I", _MAGIC).join(parts)
            offset = start + (length + 3) // 4 * 4

    def image(self, offset: int) -> tuple[tuple[float, ...], bytes]:
        """Labels and encoded image of the record at this offset.

        Raises:
            DamagedRecord: there is none.
        """
        data = self.record(offset)
        if len(data) < _HEADER.size:
            raise self._damaged(offset, f"has {len(data)} bytes, fewer than its header")
        flag, label, _, _ = _HEADER.unpack_from(data)
        end = _HEADER.size + 4 * flag
        if end > len(data):
            raise self._damaged(offset, f"has {len(data)} bytes, too few for {flag} labels")
        labels = struct.unpack_from(f"<{flag}f", data, _HEADER.size) if flag else (label,)
        return labels, data[end:]

    def first_labels(self, offsets: NDArray[np.int64]) -> NDArray[np.float32]:
        """The first label of the record at each offset; NaN where there is no sound record.

        Reads the headers only, which is much faster than `image` for millions of records.
        """
        size = _WORD.size + _HEADER.size + 4
        padded = len(self._bytes) - size
        found = np.full(len(offsets), np.nan, np.float32)
        for begin in range(0, len(offsets), _CHUNK):
            here = offsets[begin : begin + _CHUNK]
            inside = (here >= 0) & (here <= padded)
            rows = np.where(inside, here, 0)[:, None] + np.arange(size)
            words = np.ascontiguousarray(self._bytes[rows]).view("<u4")
            length = (words[:, 1] & _LENGTH).astype(np.int64)
            sound = inside & (words[:, 0] == _MAGIC) & (words[:, 1] >> 29 <= 1)
            sound &= (length >= _HEADER.size + 4) & (here + _WORD.size + length <= len(self._bytes))
            values = words.view("<f4")
            labels = np.where(words[:, 2] > 0, values[:, 8], values[:, 3])
            found[begin : begin + _CHUNK] = np.where(sound, labels, np.nan)
        return found

    def _damaged(self, offset: int, what: str) -> DamagedRecord:
        return DamagedRecord(f"{self.path}: the record at byte {offset} {what}")


def _map(path: Path) -> NDArray[np.uint8]:
    if path.stat().st_size < _WORD.size:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, too few for a record")
    return np.memmap(path, np.uint8, "r")
