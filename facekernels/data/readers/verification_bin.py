"""Pairs of faces in InsightFace's ``.bin`` files: lfw.bin, cfp_fp.bin, agedb_30.bin.

Such a file is a pickle of (encoded images, list of bool). Unpickling runs whatever the file says,
so here it may name nothing but the few harmless things that such files hold; all else is an error.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from facekernels.data.image_list import ImageList
from facekernels.data.image_sources import EncodedImages
from facekernels.data.report import Report


def read_verification_bin(path: str | Path) -> ImageList:
    """Pairs of images and whether both show the same person.

    Rows 2i and 2i + 1 are pair i. The whole file is read into memory (LFW: 60 MB).

    Args:
        path: the ``.bin`` file.

    Returns:
        ``labels["pair"]``: ``[2 P]`` int64. ``labels["same"]``: ``[2 P]`` bool, the pair's.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a pickle: it names a class that has no place in it (which is not run),
            is cut off, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    encoded, same = _contents(path)
    images = EncodedImages(encoded, str(path))
    pair = torch.arange(len(same))
    return ImageList(
        images,
        {"pair": pair.repeat_interleave(2), "same": torch.tensor(same).repeat_interleave(2)},
        report=Report(),
    )


def _contents(path: Path) -> tuple[list[bytes], list[bool]]:
    data = path.read_bytes()
    try:
        _check_memo(data)
        found = _Restricted(io.BytesIO(data), encoding="bytes").load()
    except _Refused as error:
        raise ValueError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle raises nearly anything
        raise ValueError(f"{path} is not a readable pickle: {error}") from error
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise ValueError(f"{path} must hold (images, same), got {_kind(found)}")
    encoded, same = found
    if not isinstance(encoded, list) or not all(isinstance(e, bytes) for e in encoded):
        raise ValueError(f"{path} must hold a list of encoded images first, got {_kind(encoded)}")
    if not isinstance(same, list) or not all(isinstance(s, bool) or s in (0, 1) for s in same):
        raise ValueError(f"{path} must hold a list of bool second, got {_kind(same)}")
    if not same or len(encoded) != 2 * len(same):
        raise ValueError(
            f"{path} must hold two images per pair, got {len(encoded)} images and {len(same)} pairs"
        )
    return encoded, [bool(s) for s in same]


def _kind(value: object) -> str:
    name = type(value).__name__
    return f"{name} of {len(value)}" if isinstance(value, tuple | list) else name


class _Refused(Exception):
    pass


def _check_memo(data: bytes) -> None:
    """Numbers of remembered objects count up; a huge one would take as much memory."""
    for count, (code, argument, _) in enumerate(pickletools.genops(data)):
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > count:
            raise _Refused(f"the pickle remembers object {argument} after {count} steps")


class _Restricted(pickle.Unpickler):
    """Knows the names below, and stands in for each with a function of this module."""

    def find_class(self, module: str, name: str) -> _StandIn:
        known = _KNOWN.get((module, name))
        if known is None:
            raise _Refused(
                f"the pickle names {module}.{name}; only encoded images and bool are read, and "
                "nothing else is run"
            )
        return _StandIn(known)

    def persistent_load(self, pid: object) -> object:
        raise _Refused("the pickle refers to an object outside of it")


class _StandIn:
    """Calls a function of this module, and cannot be changed by the pickle."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: object) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: object) -> None:
        raise _Refused("the pickle sets attributes of a function")


class _BoolType:
    """Stands in for numpy.dtype, of which only bool is taken."""

    def __init__(self, code: Any, *_: object) -> None:
        if code not in ("b1", b"b1", "?", b"?"):
            raise _Refused(f"the pickle holds NumPy numbers of type {code!r}, expected bool")

    def __setstate__(self, state: object) -> None:
        pass


def _scalar(kind: object, data: object) -> bool:
    if not isinstance(kind, _BoolType) or data not in (b"\x00", b"\x01", "\x00", "\x01"):
        raise _Refused("the pickle holds a NumPy scalar that is not bool")
    return data in (b"\x01", "\x01")


def _encode(text: object, encoding: object = "latin1") -> bytes:
    """How Python 3 writes bytes in protocol 2."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise _Refused(f"the pickle encodes with {encoding!r}, expected latin1")
    return text.encode("latin1")


def _no_bytes(*arguments: object) -> bytes:
    """How Python 3 writes empty bytes in protocol 2."""
    if arguments:
        raise _Refused("the pickle makes bytes of something")
    return b""


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("_codecs", "encode"): _encode,
    ("builtins", "bytes"): _no_bytes,
    ("__builtin__", "bytes"): _no_bytes,
    ("numpy", "dtype"): _BoolType,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
}
