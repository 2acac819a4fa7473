"""Features, labels and neighbours in the files of the public face clustering benchmarks.

gcn_clustering keeps all three as ``.npy``; learn-to-cluster keeps features as raw ``.bin``, labels
as ``.meta`` and neighbours as ``.npz``. Nothing is ever unpickled. Of a damaged file, the error
names the file and what is wrong.
"""

from __future__ import annotations

import io
import lzma
import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from facekernels.data.files import replacing

_FEATURES = ("features", "feature", "data")
_LABELS = ("labels", "label", "data")
_KNN = ("data", "knns", "knn")
_FLOATS = (np.float16, np.float32, np.float64)
_TEXT = {".meta", ".txt"}
LABEL_SUFFIXES = (".npy", *sorted(_TEXT))
"""Of the files that `write_labels` writes."""
_BLOCK = 1 << 16  # rows of a graph that are converted at a time
_INT64 = np.iinfo(np.int64)


def read_features(
    path: str | Path, *, dim: int | None = None, mmap: bool = True
) -> NDArray[np.floating[Any]]:
    """Features of ``.npy``, ``.npz`` (its only array, or "features", "feature" or "data") or
    ``.bin`` (raw little-endian float32, rows one after the other).

    Args:
        path: the file.
        dim: D. Needed for ``.bin``, which does not tell it; else checked.
        mmap: map ``.npy`` and ``.bin`` instead of reading them. ``.npz`` is always read.

    Returns:
        ``[N, D]`` in the dtype of the file: float32, float16 or float64. Read-only, unless read
        from ``.npy`` or ``.bin`` with ``mmap=False``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another suffix, another D, a file that is damaged or holds something else.
    """
    path = Path(path)
    if dim is not None and dim < 1:
        raise ValueError(f"dim must be at least 1, got {dim}")
    if path.suffix == ".bin":
        return _native(_read_bin(path, dim, mmap))
    array = _read_array(path, _FEATURES, (".bin",), mmap)
    if array.ndim != 2:
        raise ValueError(f"{path} must hold features [N, D], got shape {list(array.shape)}")
    if array.dtype.newbyteorder("=") not in _FLOATS:
        raise ValueError(f"{path} must hold float16, float32 or float64, got {array.dtype}")
    if dim is not None and array.shape[1] != dim:
        raise ValueError(f"{path} must hold features of dim {dim}, got {array.shape[1]}")
    return _native(array)


def read_labels(path: str | Path) -> NDArray[np.int64]:
    """Labels of ``.npy``, ``.npz`` (its only array, or "labels", "label" or "data"), or ``.meta``
    or ``.txt`` (one integer per line).

    Returns:
        ``[N]`` int64. Floats are accepted if every one is whole.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another suffix, a line that is not an integer (named), a damaged file.
    """
    path = Path(path)
    if path.suffix in _TEXT:
        return _read_lines(path)
    array = _read_array(path, _LABELS, tuple(sorted(_TEXT)), mmap=False)
    if array.ndim != 1:
        raise ValueError(f"{path} must hold labels [N], got shape {list(array.shape)}")
    return _whole(path, "labels", array)


def write_labels(path: str | Path, labels: NDArray[np.integer[Any]] | Sequence[int]) -> None:
    """Write what `read_labels` reads, ``.npy``, ``.meta`` or ``.txt``, atomically.

    Raises:
        TypeError: labels that are not integers.
        ValueError: labels that are not ``[N]`` or do not fit into int64; another suffix.
    """
    path, array = Path(path), np.asarray(labels)
    if array.ndim != 1:
        raise ValueError(f"labels must be [N], got shape {list(array.shape)}")
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"labels must hold integers, got {array.dtype}")
    if array.size and array.max() > _INT64.max:
        raise ValueError(f"labels must fit into int64, got {array.max()}")
    array = array.astype(np.int64)
    if path.suffix in _TEXT:
        with replacing(path) as temporary:
            temporary.write_text("".join(f"{label}\n" for label in array.tolist()))
    elif path.suffix == ".npy":
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.lib.format.write_array(file, array, allow_pickle=False)
    else:
        raise ValueError(f"path must end in .npy, .meta or .txt, got {path}")


def read_knn(path: str | Path) -> tuple[NDArray[np.int64], NDArray[np.float32] | None]:
    """A graph of nearest neighbours, without the rows themselves.

    Two layouts, in ``.npy`` or ``.npz`` (its only array, or "data", "knns" or "knn"): ids
    ``[N, k + 1]``, best first, or ids and cosine distances ``[N, 2, k + 1]``, in any order. Both
    count the row itself. It is removed where it stands: among equal rows that need not be the first
    column. Where it is absent, the last column goes instead.

    Returns:
        ``[N, k]`` int64 and, of the second layout, ``[N, k]`` float32 similarities, ``1 -
        distance``, in descending order; else None.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another suffix or layout, ids that are not rows, a row that is its own neighbour
            twice, distances that are not finite, a damaged file.

    Warns:
        UserWarning: every distance is 0 or 1. The GPU search of learn-to-cluster truncates them so.
    """
    path = Path(path)
    array = _read_array(path, _KNN, (), mmap=True)
    if array.ndim == 2:
        ids, distances = array, None
    elif array.ndim == 3 and array.shape[1] == 2:
        ids, distances = array[:, 0], array[:, 1]
    else:
        raise ValueError(
            f"{path} must hold ids [N, k + 1] or ids and distances [N, 2, k + 1], "
            f"got shape {list(array.shape)}"
        )
    rows, columns = ids.shape
    if columns < 2:
        raise ValueError(f"{path} must hold each row and a neighbour at least, got {columns} ids")
    if ids.dtype.kind == "f" and rows > 2 ** (np.finfo(ids.dtype).nmant + 1):
        raise ValueError(f"{path} holds ids as {ids.dtype}, which cannot tell {rows} rows apart")
    idx = np.empty((rows, columns - 1), np.int64)
    sim = None if distances is None else np.empty(idx.shape, np.float32)
    fractions = False
    for start in range(0, rows, _BLOCK):
        block = slice(start, min(start + _BLOCK, rows))
        found = _ids(path, ids[block], start, rows)
        if distances is not None:
            distance = _distances(path, distances[block], start)
            fractions = fractions or not np.isin(distance, (0, 1)).all()
            if (np.diff(distance, axis=1) < 0).any():
                order = np.argsort(distance, axis=1, kind="stable")
                found = np.take_along_axis(found, order, 1)
                distance = np.take_along_axis(distance, order, 1)
        kept = _without_self(path, found, start)
        idx[block] = found[kept].reshape(-1, columns - 1)
        if sim is not None:
            sim[block] = (1 - distance[kept]).reshape(-1, columns - 1)
    if sim is not None and rows and not fractions:
        warnings.warn(f"every distance in {path} is 0 or 1, as if truncated to an integer; search "
                      "the neighbours again if they should be cosine distances",
                      stacklevel=2)  # fmt: skip
    return idx, sim


def _ids(path: Path, block: NDArray[Any], start: int, rows: int) -> NDArray[np.int64]:
    ids = _whole(path, "ids", block)
    outside = (ids < 0) | (ids >= rows)
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise ValueError(
            f"{path} must hold ids of its {rows} rows, got {ids[row, column]} in row {start + row} "
            "(-1 stands for a neighbour that was not found; search with fewer)"
        )
    return ids


def _distances(path: Path, block: NDArray[Any], start: int) -> NDArray[np.float64]:
    distance = block.astype(np.float64)
    bad = ~np.isfinite(distance).all(1)
    if bad.any():
        raise ValueError(
            f"{path} holds distances that are not finite in row {start + bad.argmax()}"
        )
    return distance


def _without_self(path: Path, ids: NDArray[np.int64], start: int) -> NDArray[np.bool_]:
    """``[n, k + 1]``: all but one column of each row."""
    own = ids == np.arange(start, start + len(ids))[:, None]
    times = own.sum(1)
    if times.max() > 1:
        raise ValueError(
            f"{path} must hold a row once among its neighbours, got row {start + times.argmax()} "
            f"{times.max()} times"
        )
    removed = np.where(times == 1, own.argmax(1), ids.shape[1] - 1)
    kept: NDArray[np.bool_] = removed[:, None] != np.arange(ids.shape[1])
    return kept


def _native(array: NDArray[Any]) -> NDArray[Any]:
    """The array in the byte order of this machine, which torch asks for; a copy only if needed."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _whole(path: Path, what: str, array: NDArray[Any]) -> NDArray[np.int64]:
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{path} must hold integers, got {array.dtype}")
    if array.dtype.kind == "f":
        # -2**63 fits and 2**63 does not; NaN fails every comparison.
        bad = ~((array == np.floor(array)) & (np.abs(array.astype(np.float64)) < 2.0**63))
    elif array.dtype.kind == "u":
        bad = array > _INT64.max
    else:
        return array.astype(np.int64)
    if bad.any():
        raise ValueError(f"{path} must hold {what} that are int64 integers, got {array[bad][0]}")
    return array.astype(np.int64)


def _read_bin(path: Path, dim: int | None, mmap: bool) -> NDArray[Any]:
    size = path.stat().st_size
    if dim is None:
        raise ValueError(f"dim must be given for {path}, which holds {size / 4:g} float32 numbers")
    if size % (4 * dim) or not size:
        raise ValueError(
            f"{path} must hold rows of {dim} float32 numbers ({4 * dim} bytes), got {size} bytes: "
            f"{size // (4 * dim)} rows and {size % (4 * dim)} bytes"
        )
    shape = size // (4 * dim), dim
    if mmap:
        return np.memmap(path, "<f4", "r", shape=shape)
    return np.fromfile(path, "<f4").reshape(shape)


def _read_lines(path: Path) -> NDArray[np.int64]:
    data = path.read_bytes()
    lines = data.split(b"\n")
    if not lines[-1]:  # what follows the last newline is no line
        lines.pop()
    try:
        if b"_" not in data:  # int() takes 1_000
            return np.array([int(line) for line in lines], np.int64)
    except (ValueError, OverflowError):
        pass
    for number, line in enumerate(lines, 1):
        try:
            if b"_" not in line and _INT64.min <= int(line) <= _INT64.max:
                continue
        except ValueError:
            pass
        shown = line[:40].decode(errors="replace")
        raise ValueError(
            f"{path} must hold one int64 integer per line, got {shown!r} in line {number}"
        )
    raise AssertionError("a line must have been bad")


def _read_array(
    path: Path, names: Sequence[str], others: Sequence[str], mmap: bool
) -> NDArray[Any]:
    """The array of a ``.npy`` or ``.npz`` file; `others` are suffixes that the caller reads."""
    if path.suffix == ".npz":
        return _read_npz(path, names)
    if path.suffix != ".npy":
        *head, last = (".npy", ".npz", *others)
        raise ValueError(f"path must end in {', '.join(head)} or {last}, got {path}")
    with path.open("rb") as file:
        _check_npy(str(path), file, path.stat().st_size)
    array: NDArray[Any] = np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    return array


def _read_npz(path: Path, names: Sequence[str]) -> NDArray[Any]:
    with path.open("rb") as file:
        with _damage_told(path):
            archive = zipfile.ZipFile(file)
            members = [m.removesuffix(".npy") for m in archive.namelist() if m.endswith(".npy")]
        name = _choose(path, members, names)
        with _damage_told(path):
            data = archive.read(f"{name}.npy")  # at once, so that zipfile checks the checksum
    content = io.BytesIO(data)
    shape, fortran, dtype = _check_npy(f"{path} ({name})", content, len(data))
    flat = np.frombuffer(data, dtype, math.prod(shape), content.tell())
    return flat.reshape(shape, order="F" if fortran else "C")


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    """What zipfile and the decompressors raise, as one error that names the file."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError,
            ValueError, NotImplementedError, RuntimeError) as error:  # fmt: skip
        raise ValueError(f"{path} is damaged or no .npz archive: {error}") from error


def _choose(path: Path, members: Sequence[str], names: Sequence[str]) -> str:
    if len(members) == 1:
        return members[0]
    for name in names:
        if name in members:
            return name
    held = ", ".join(members) or "none"
    raise ValueError(f"{path} must hold one array or one named {' or '.join(names)}, got {held}")


def _check_npy(
    where: str, file: IO[bytes], size: int
) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype; leaves the file at the data."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0,
               (2, 0): np.lib.format.read_array_header_2_0}  # fmt: skip
    try:
        version = np.lib.format.read_magic(file)
        if version not in readers:
            raise ValueError(f"format version {version} is not known")
        shape, fortran, dtype = readers[version](file)
    except (ValueError, TypeError, SyntaxError, tokenize.TokenError) as error:
        raise ValueError(f"{where} is damaged or no .npy array: {error}") from error
    if dtype.hasobject:
        raise ValueError(f"{where} must hold numbers, got Python objects, which are not unpickled")
    if any(length < 0 for length in shape):
        raise ValueError(f"{where} is damaged: its header tells shape {list(shape)}")
    expected = file.tell() + math.prod(shape) * dtype.itemsize
    if size < expected:
        raise ValueError(
            f"{where} is truncated: {list(shape)} {dtype} take {expected} bytes, got {size}"
        )
    return shape, fortran, dtype
