"""Stages of a long computation that need not be computed again after a crash, Ctrl-C or a change.

A stage is a set of arrays in ``NAME.ARRAY.npy`` files and a manifest ``NAME.json``. The manifest is
written last and tells what the arrays were made from, so a stage without a right one is not done.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from facekernels.data.files import replacing

Arrays = dict[str, NDArray[Any]]

_FORMAT = "facekernels stage 1"
_BLOCK = 1 << 20  # bytes
_BLOCKS = 64  # of an input that is not read whole
_HEADER = 1 << 12  # bytes, more than that of any .npy file here
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_SECTIONS = {"inputs": "input", "settings": "setting", "upstream": "earlier stage",
             "layout": "layout:"}  # fmt: skip


class StageWarning(UserWarning):
    """A stage is there but cannot be used; the message tells why. It is computed again."""


def fingerprint(array: NDArray[Any]) -> str:
    """Dtype, shape and a checksum of the values, whatever their strides.

    Up to 64 MiB all values count. Of more, 64 blocks of 1 MiB do, evenly spaced from the first byte
    to the last, so that 10 GB take a fraction of a second. Other values of the same shape, or rows
    in another order, are seen; a change that lies between two blocks, such as a single edited row,
    is not.

    Raises:
        TypeError: no array, or one of Python objects or records.
    """
    _check_array("array", array)
    shape = "x".join(map(str, array.shape)) or "scalar"
    return f"{array.dtype.str} {shape} {_checksum(array)}"


class Stages:
    """The stages in one folder, in the order in which they are asked for.

    A stage is used again if its files are intact and it was made from the same inputs, settings and
    earlier stages; else it is computed again, with a `StageWarning` that names the damaged file or
    what differs. Files are checked from the first byte to the last, about 1 GB per second.

    The folder belongs to the stages, and to one process at a time.

    Args:
        folder: made if it is not there.
        inputs: what all stages depend on, by name: arrays (by `fingerprint`) or JSON values.

    Raises:
        TypeError: an input that is neither.
    """

    def __init__(self, folder: str | Path, inputs: Mapping[str, Any]) -> None:
        self._folder = Path(folder)
        self._inputs = _described("input", inputs)
        self._upstream: dict[str, str] = {}  # checksum of the manifest of each stage so far

    def stage(
        self,
        name: str,
        compute: Callable[[], Mapping[str, NDArray[Any]]],
        *,
        settings: Mapping[str, Any] | None = None,
    ) -> Arrays:
        """The arrays of `compute`, from the files or computed now.

        Nothing half done stays behind if `compute` or a write fails or is interrupted; earlier
        stages stay valid.

        Args:
            name: of the stage, once per `Stages`: letters, digits, ``_`` and ``-``.
            compute: gives arrays by name. Without a call, nothing is known about its code: put a
                version into `settings` when it changes.
            settings: what `compute` depends on besides the inputs and the earlier stages: arrays
                or JSON values by name.

        Returns:
            The arrays by name, mapped read-only.

        Raises:
            TypeError: a setting or a result of `compute` of a wrong type.
            ValueError: a name that is malformed or was used before.
            OSError: a file cannot be written; on a full disk with the bytes that are needed.
        """
        key = self._key(name, settings, {})
        manifest, problem = self._find(name, key)
        if problem:
            warnings.warn(problem, StageWarning, stacklevel=2)
        if manifest is None:
            arrays = compute()
            _check_result(name, arrays)
            self._discard(name)
            try:
                self._check_space(name, (array.nbytes for array in arrays.values()))
                for array_name, array in arrays.items():
                    _write(self._array_path(name, array_name), array)
                manifest = self._write_manifest(name, key, self._records(name, arrays), None)
            except BaseException:
                self._discard(name)
                raise
        return self._finish(name, manifest)

    def chunked_stage(
        self,
        name: str,
        arrays: Mapping[str, tuple[tuple[int, ...], DTypeLike]],
        chunks: int,
        compute_chunk: Callable[[int, Arrays], object],
        *,
        settings: Mapping[str, Any] | None = None,
    ) -> Arrays:
        """As `stage`, for results that are filled in piece by piece and continued where they ended.

        A chunk counts as done when its values are on the disk and the manifest says so. Until all
        are, the files are checked by size and header only.

        Args:
            name: as for `stage`.
            arrays: shape and dtype by name. Files of zeros are made before the first chunk, with
                their disk space, so that a full disk is told then.
            chunks: how many; at least 1. Another number is another stage.
            compute_chunk: ``compute_chunk(i, views)`` writes chunk i of all arrays into `views`
                (the whole arrays by name). It must not read what it writes: an interrupted chunk
                is computed anew on top.
            settings: as for `stage`.

        Returns, raises: as `stage`; ValueError for `chunks` below 1 or a negative length too.
        """
        if chunks < 1:
            raise ValueError(f"chunks must be at least 1, got {chunks}")
        layout = _check_layout(name, arrays)
        described = {f"array {n}": [list(shape), t.str] for n, (shape, t) in layout.items()}
        key = self._key(name, settings, {"chunks": chunks, **described})
        manifest, problem = self._find(name, key)
        if problem:
            warnings.warn(problem, StageWarning, stacklevel=2)
        if manifest is None:
            manifest = self._allocate(name, key, layout)
        if manifest["done"] is not None:
            manifest = self._fill(name, key, manifest, chunks, compute_chunk)
        return self._finish(name, manifest)

    def _allocate(
        self, name: str, key: dict[str, Any], layout: Mapping[str, tuple[tuple[int, ...], Any]]
    ) -> dict[str, Any]:
        self._discard(name)
        try:
            sizes = (math.prod(shape) * dtype.itemsize for shape, dtype in layout.values())
            self._check_space(name, sizes)
            for array_name, (shape, dtype) in layout.items():
                _write_zeros(self._array_path(name, array_name), shape, dtype)
            return self._write_manifest(name, key, self._records(name, layout, finished=False), 0)
        except BaseException:
            self._discard(name)
            raise

    def _fill(
        self,
        name: str,
        key: dict[str, Any],
        manifest: dict[str, Any],
        chunks: int,
        compute_chunk: Callable[[int, Arrays], object],
    ) -> dict[str, Any]:
        records = manifest["arrays"]
        views = {n: np.lib.format.open_memmap(self._array_path(name, n), "r+") for n in records}
        for chunk in range(manifest["done"], chunks):
            compute_chunk(chunk, dict(views))
            for view in views.values():
                view.flush()  # before the manifest says that the chunk is there
            if chunk + 1 < chunks:
                self._write_manifest(name, key, records, chunk + 1)
        return self._write_manifest(name, key, self._records(name, records), None)

    def _finish(self, name: str, manifest: dict[str, Any]) -> Arrays:
        self._upstream[name] = manifest["checksum"]
        return {n: np.load(self._array_path(name, n), mmap_mode="r", allow_pickle=False)
                for n in manifest["arrays"]}  # fmt: skip

    # What lies in the folder.

    def _manifest_path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _array_path(self, name: str, array_name: str) -> Path:
        return self._folder / f"{name}.{array_name}.npy"

    def _key(
        self, name: str, settings: Mapping[str, Any] | None, layout: dict[str, Any]
    ) -> dict[str, Any]:
        """What a stage is made from; it is used again only if this is the same."""
        _check_name("name", name)
        if name in self._upstream:
            raise ValueError(f"name must be new for each stage, got {name!r} again")
        return {
            "inputs": self._inputs,
            "settings": _described("setting", settings or {}),
            "upstream": dict(self._upstream),
            "layout": layout,
        }

    def _find(self, name: str, key: dict[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
        """The manifest of a stage that can be used or continued, or why there is none."""
        path = self._manifest_path(name)
        try:
            manifest = json.loads(path.read_bytes())
        except FileNotFoundError:
            left = sorted(p.name for p in self._files(name))
            if not left:
                return None, None
            return None, f"{', '.join(left)} in {self._folder} were left unfinished: computed again"
        except ValueError as error:
            return None, f"{path} is damaged: {error}; stage {name} is computed again"
        problem = _manifest_problem(path, manifest)
        if problem is None:
            difference = _difference(manifest["key"], key)
            if difference:
                return None, f"stage {name} is computed again: {difference}"
            for array_name, record in manifest["arrays"].items():
                array_path = self._array_path(name, array_name)
                problem = problem or _file_problem(array_path, record)
        if problem is not None:
            return None, f"{problem}; stage {name} is computed again"
        return manifest, None

    def _files(self, name: str) -> Iterator[Path]:
        """Of a stage, besides the manifest; names hold no dot, so none of another stage."""
        yield from self._folder.glob(f"{name}.*.npy")
        yield from self._folder.glob(f".{name}.*")  # temporary ones of a killed process

    def _discard(self, name: str) -> None:
        self._manifest_path(name).unlink(missing_ok=True)  # first: without it nothing is done
        for path in list(self._files(name)):
            path.unlink(missing_ok=True)

    def _check_space(self, name: str, sizes: Iterable[int]) -> None:
        needed = sum(size + _HEADER for size in sizes)
        self._folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise _no_space(errno.ENOSPC, self._folder / f"{name}.*.npy", needed)

    def _records(
        self, name: str, arrays: Iterable[str], *, finished: bool = True
    ) -> dict[str, Any]:
        return {n: _record(self._array_path(name, n), finished) for n in arrays}

    def _write_manifest(
        self, name: str, key: dict[str, Any], records: dict[str, Any], done: int | None
    ) -> dict[str, Any]:
        """`done` is the number of finished chunks, or None for all."""
        manifest = {"format": _FORMAT, "key": key, "arrays": records, "done": done}
        manifest["checksum"] = _text_checksum(manifest)
        text = json.dumps(manifest, indent=1).encode()
        with _opened(self._manifest_path(name), len(text)) as file:
            file.write(text)
        return manifest


# Checks of arguments.


def _check_name(argument: str, name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{argument} must be letters, digits, _ and -, got {name!r}")


def _check_array(argument: str, array: object) -> None:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{argument} must be a NumPy array, got {type(array).__name__}")
    _check_dtype(argument, array.dtype)


def _check_dtype(argument: str, dtype: np.dtype[Any]) -> None:
    if dtype.kind in "OV":
        raise TypeError(f"{argument} must hold numbers or text, got {dtype}")


def _check_result(name: str, arrays: object) -> None:
    if not isinstance(arrays, Mapping):
        raise TypeError(f"compute of stage {name} must return arrays by name, got "
                        f"{type(arrays).__name__}")  # fmt: skip
    for array_name, array in arrays.items():
        _check_name(f"array names of stage {name}", array_name)
        _check_array(f"{array_name} of stage {name}", array)


def _check_layout(
    name: str, arrays: Mapping[str, tuple[tuple[int, ...], DTypeLike]]
) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    layout = {}
    for array_name, (shape, dtype) in arrays.items():
        _check_name(f"array names of stage {name}", array_name)
        _check_dtype(f"{array_name} of stage {name}", np.dtype(dtype))
        if any(length < 0 for length in shape):
            raise ValueError(f"{array_name} of stage {name} must have a shape, got {list(shape)}")
        layout[array_name] = tuple(map(int, shape)), np.dtype(dtype)
    return layout


def _described(what: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as they will be read back from JSON, arrays as their fingerprints."""
    described = {}
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            value = fingerprint(value)
        try:
            described[str(name)] = json.loads(json.dumps(value, default=_scalar))
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"{what} {name} must be a NumPy array or a JSON value: {error}"
            ) from None
    return described


def _scalar(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"got {type(value).__name__}")


# What a manifest tells.


def _manifest_problem(path: Path, manifest: Any) -> str | None:
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        return f"{path} is not a manifest of this version"
    if manifest.pop("checksum", None) != (checksum := _text_checksum(manifest)):
        return f"{path} was changed: its checksum is wrong"
    manifest["checksum"] = checksum
    return None


def _file_problem(path: Path, record: Mapping[str, Any]) -> str | None:
    if not path.is_file():
        return f"{path} is missing"
    size = path.stat().st_size
    if size != record["bytes"]:
        return f"{path} is damaged: it has {size} bytes, expected {record['bytes']}"
    if _file_checksum(path, record["checked"]) != record["checksum"]:
        return f"{path} is damaged: its checksum is wrong"
    return None


def _record(path: Path, finished: bool) -> dict[str, Any]:
    """Of a file that was just written. Until it is finished, the checksum is of the header only."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    size = path.stat().st_size
    checked = size if finished else array.offset
    return {
        "shape": list(array.shape),
        "dtype": array.dtype.str,
        "bytes": size,
        "checked": checked,
        "checksum": _file_checksum(path, checked),
    }


def _file_checksum(path: Path, size: int) -> str:
    """Of the first `size` bytes."""
    return _checksum(np.memmap(path, np.uint8, "r", shape=(size,)), whole=True)


def _difference(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs, or nothing. Compared as text, since NaN is not equal to itself."""
    told = []
    for section, what in _SECTIONS.items():
        for name in sorted({*was[section], *now[section]}):
            texts = [_short(side[section], name) for side in (was, now)]
            if _text(was[section].get(name, ...)) != _text(now[section].get(name, ...)):
                told.append(f"{what} {name} was {texts[0]} and is {texts[1]}")
    return "; ".join(told)


def _short(section: Mapping[str, Any], name: str) -> str:
    if name not in section:
        return "absent"
    text = _text(section[name])
    return text if len(text) <= 80 else f"{text[:77]}..."


def _text(value: object) -> str:
    return "absent" if value is ... else json.dumps(value, sort_keys=True)


def _text_checksum(value: object) -> str:
    return hashlib.blake2b(_text(value).encode(), digest_size=16).hexdigest()


def _checksum(array: NDArray[Any], *, whole: bool = False) -> str:
    rows, step = _in_blocks(array)
    starts: Iterable[int] = range(0, len(rows), step)
    if not whole and rows.nbytes > _BLOCK * _BLOCKS:
        starts = np.linspace(0, len(rows) - step, _BLOCKS).astype(int).tolist()
    digest = hashlib.blake2b(digest_size=16)
    for start in starts:
        digest.update(rows[start : start + step].tobytes())
    return digest.hexdigest()


def _in_blocks(array: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """The array with one dimension at least, and the number of rows in a block."""
    rows = np.atleast_1d(array)
    return rows, max(1, _BLOCK * len(rows) // max(1, rows.nbytes))


# Writing.


def _write(path: Path, array: NDArray[Any]) -> None:
    rows, step = _in_blocks(array)
    with _opened(path, array.nbytes) as file:
        _write_header(file, array.shape, array.dtype)
        # Not ndarray.tofile, which does not tell a full disk from other errors.
        for start in range(0, len(rows), step):
            file.write(rows[start : start + step].tobytes())


def _write_zeros(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    size = math.prod(shape) * dtype.itemsize
    with _opened(path, size) as file:
        _write_header(file, shape, dtype)
        file.flush()
        if size:
            # A sparse file would end the process (SIGBUS) when the disk fills up later.
            os.posix_fallocate(file.fileno(), file.tell(), size)


@contextmanager
def _opened(path: Path, size: int) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` at the end. A full disk is told with what is needed."""
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            yield file
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _no_space(error.errno, path, size + _HEADER) from error


def _write_header(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _no_space(number: int, path: Path, needed: int) -> OSError:
    free = shutil.disk_usage(path.parent).free
    return OSError(number, f"{os.strerror(number)}: {needed} bytes are needed, {free} are free",
                   str(path))  # fmt: skip
