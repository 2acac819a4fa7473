"""MXNet record files and InsightFace's pickled pairs, without MXNet and without unpickling."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facekernels.data.image_list import check_images
from facekernels.data.image_sources import UnreadableImage
from facekernels.data.label_files import DataSetWarning
from facekernels.data.readers import read_recordio, read_verification_bin
from facekernels.data.record_file import DamagedRecord, RecordFile

Jpeg = Callable[[int], bytes]
MAGIC = 0xCED7230A


def part(kind: int, data: bytes) -> bytes:
    return struct.pack("<II", MAGIC, kind << 29 | len(data)) + data + bytes(-len(data) % 4)


def record(data: bytes) -> bytes:
    """As MXNet writes it: split where the magic number stands at a multiple of 4."""
    magic = struct.pack("<I", MAGIC)
    cuts = [i for i in range(0, len(data) - 3, 4) if data[i : i + 4] == magic]
    pieces, start = [], 0
    for cut in cuts:
        pieces.append(data[start:cut])
        start = cut + 4
    pieces.append(data[start:])
    if len(pieces) == 1:
        return part(0, data)
    kinds = [1, *[2] * (len(pieces) - 2), 3]
    return b"".join(part(kind, piece) for kind, piece in zip(kinds, pieces, strict=True))


def image_record(labels: float | list[float], image: bytes, key: int) -> bytes:
    if isinstance(labels, list):
        header = struct.pack("<IfQQ", len(labels), 0.0, key, 0)
        return record(header + struct.pack(f"<{len(labels)}f", *labels) + image)
    return record(struct.pack("<IfQQ", 0, labels, key, 0) + image)


def write(root: Path, records: dict[int, bytes], persons: int = 2) -> Path:
    data, index = b"", []
    for key, content in records.items():
        index.append(f"{key}\t{len(data)}\n")
        data += content
    (root / "train.rec").write_bytes(data)
    (root / "train.idx").write_text("".join(index))
    (root / "property").write_text(f"{persons},112,112")
    return root


@pytest.fixture
def records(jpeg: Jpeg) -> dict[int, bytes]:
    """Record 0, four images of two persons (one with several labels), and the persons' ranges."""
    images = {i: image_record(float(i > 2), jpeg(40 * i), i) for i in (1, 2, 3)}
    images[4] = image_record([1.0, 7.0], jpeg(160), 4)
    return {
        0: image_record([5.0, 7.0], b"", 0), **images,
        5: image_record([1.0, 3.0], b"", 5), 6: image_record([3.0, 5.0], b"", 6),
    }  # fmt: skip


def test_recordio(records: dict[int, bytes], tmp_path: Path) -> None:
    found = read_recordio(write(tmp_path, records), strict=True)
    assert found.labels["label"].tolist() == [0, 0, 1, 1]
    assert found.classes == ("0", "1")
    for row in range(4):
        assert abs(int(found.images.read(row)[0, 0, 0]) - 40 * (row + 1)) <= 1
    copy = pickle.loads(pickle.dumps(found.subset([3, 0]).images))  # to another worker
    assert [copy.name(i) for i in range(2)] == [f"{tmp_path}/train.rec: record {k}" for k in (4, 1)]
    assert abs(int(copy.read(0)[0, 0, 0]) - 160) <= 1


def test_recordio_without_record_0(jpeg: Jpeg, tmp_path: Path) -> None:
    images = {i: image_record(float(i), jpeg(40 * i), i) for i in range(2)}
    found = read_recordio(write(tmp_path, images), strict=True)
    assert found.labels["label"].tolist() == [0, 1]


def test_data_that_contains_the_magic_number(tmp_path: Path) -> None:
    magic = struct.pack("<I", MAGIC)
    for data in (magic, b"abcd" + magic + b"ef", magic * 3 + b"x", b"ab" + magic + b"cd"):
        path = tmp_path / "a.rec"
        path.write_bytes(record(b"first") + record(data))
        assert RecordFile(path).record(len(record(b"first"))) == data


@pytest.mark.parametrize(
    ("content", "offset", "expected"),
    [
        (part(0, b"abcd"), 4, "begins with 0x4, expected 0xced7230a"),
        (part(0, b"abcd"), 8, "lies outside of the file"),
        (part(0, b"abcd"), -8, "lies outside of the file"),
        (part(0, b"abcdefgh")[:-4], 0, "has 8 bytes, more than the file"),
        (part(2, b"abcd"), 0, "is of kind 2 after 0 parts"),
        (part(1, b"abcd") + part(0, b"efgh"), 12, b"efgh"),
        (part(1, b"abcd") + part(0, b"abcd"), 0, "is of kind 0 after 1 parts"),
        (part(1, b"ab") + part(3, b"c"), 0, b"ab" + struct.pack("<I", MAGIC) + b"c"),
        (part(1, b"abcd"), 0, "lies outside of the file"),
    ],
)
def test_records(tmp_path: Path, content: bytes, offset: int, expected: str | bytes) -> None:
    """The data, or the message."""
    path = tmp_path / "a.rec"
    path.write_bytes(content)
    if isinstance(expected, bytes):
        assert RecordFile(path).record(offset) == expected
        return
    with pytest.raises(DamagedRecord, match=expected):
        RecordFile(path).record(offset)


def test_damage_in_a_record_set(records: dict[int, bytes], tmp_path: Path, jpeg: Jpeg) -> None:
    records[2] = b"\0" * len(records[2])
    records[3] = image_record(2.0, jpeg(1), 3)
    root = write(tmp_path, records)
    with pytest.warns(DataSetWarning):
        found = read_recordio(root)
    assert found.labels["label"].tolist() == [0, 1]
    assert [p.kind for p in found.report.problems] == ["unreadable image", "label out of range"]
    with pytest.raises(ValueError, match=r"train\.rec: record 2: unreadable image: no sound reco"):
        read_recordio(root, strict=True)


def test_a_file_that_is_cut_off(records: dict[int, bytes], tmp_path: Path) -> None:
    root = write(tmp_path, records)
    data = (root / "train.rec").read_bytes()
    (root / "train.rec").write_bytes(data[: len(data) // 2])
    with pytest.warns(DataSetWarning, match="unreadable image: 2"):
        found = read_recordio(root)
    assert len(found) == 2
    assert check_images(found.images, found.report) == []


def test_damage_that_only_decoding_shows(records: dict[int, bytes], tmp_path: Path) -> None:
    records[2] = image_record(0.0, b"no image", 2)
    found = read_recordio(write(tmp_path, records), strict=True)
    with pytest.raises(UnreadableImage, match="record 2 cannot be read as an image"):
        found.images.read(1)


def test_index_lines_that_are_malformed(records: dict[int, bytes], tmp_path: Path) -> None:
    index = write(tmp_path, records) / "train.idx"
    lines = index.read_text().splitlines()
    index.write_text("\r\n".join([lines[0], "1 x", *lines[2:], lines[3]]))
    with pytest.warns(DataSetWarning):
        found = read_recordio(tmp_path)
    assert found.labels["label"].tolist() == [0, 1, 1]
    assert [str(p).removeprefix(f"{index}") for p in found.report.problems] == [
        ":2: unreadable line: expected KEY OFFSET, got '1 x'",
        ": duplicate entry: key 3 has an offset already",
    ]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("property", "two,112,112", "property must hold PERSONS,HEIGHT,WIDTH, got 'two,112,112'"),
        ("property", "", "property must hold"),
        ("train.idx", "", "train.idx lists no record"),
        ("train.idx", "0 x\n", "train.idx:1: unreadable line: expected KEY OFFSET, got '0 x'"),
        ("train.idx", "0\t0\n0\t0\n", "train.idx: duplicate entry: key 0 has an offset already"),
        ("train.rec", "", "train.rec has 0 bytes, too few for a record"),
    ],
)
def test_recordio_files_that_are_malformed(
    records: dict[int, bytes], tmp_path: Path, file: str, text: str, message: str
) -> None:
    (write(tmp_path, records) / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_recordio(tmp_path, strict=True)
    (tmp_path / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"none of {file} is there"):
        read_recordio(tmp_path)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.makedirs, ("/tmp/facekernels-unpickled",)


def protocol_2_of_python_2(images: list[bytes], same: list[bool]) -> bytes:
    """Strings as SHORT_BINSTRING and BINSTRING, which Python 3 reads but does not write."""

    def text(data: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(data)) + data

    flags = b"".join(b"\x88" if s else b"\x89" for s in same)
    return (b"\x80\x02](" + b"".join(map(text, images)) + b"e](" + flags + b"e\x86.")  # fmt: skip


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5, "python 2", "numpy bool", "numpy bool 2"])
def test_verification_bin(protocol: Any, jpeg: Jpeg, tmp_path: Path) -> None:
    images, same = [jpeg(30 * i) for i in range(6)], [True, False, True]
    if protocol == "python 2":
        data = protocol_2_of_python_2(images, same)
    elif str(protocol).startswith("numpy"):
        data = pickle.dumps((images, [np.bool_(s) for s in same]), 2 if "2" in protocol else 4)
    else:
        data = pickle.dumps((images, same), protocol)
    path = tmp_path / "lfw.bin"
    path.write_bytes(data)
    found = read_verification_bin(path)
    assert found.labels["same"].tolist() == [True, True, False, False, True, True]
    assert found.labels["pair"].tolist() == [0, 0, 1, 1, 2, 2]
    for row in range(6):
        assert abs(int(found.images.read(row)[0, 0, 0]) - 30 * row) <= 1


def test_the_older_module_name_of_numpy_is_known(jpeg: Jpeg, tmp_path: Path) -> None:
    data = pickle.dumps(([jpeg(1), jpeg(2)], [np.bool_(True)]), 2)
    path = tmp_path / "a.bin"
    path.write_bytes(data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert read_verification_bin(path).labels["same"].tolist() == [True, True]


SETS_AN_ATTRIBUTE = b"c_codecs\nencode\n" + b"N}X\x01\x00\x00\x00aNs\x86" + b"b."
"""GLOBAL; the state (None, {"a": None}), which setattr would get; BUILD."""


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pickle.dumps(Evil()), r"names (posix|os)\.makedirs|names os\.makedirs"),
        (pickle.dumps(([b"a", b"b"], [Evil()])), "names os.makedirs"),
        (pickle.dumps(([bytearray(b"a")], [True])), "names builtins.bytearray"),
        (pickle.dumps(([np.zeros(3)], [True])), r"names numpy\.\w+\.multiarray\._reconstruct"),
        (pickle.dumps(([b"a", b"b"], [np.float64(1)])), "numbers of type 'f8', expected bool"),
        (SETS_AN_ATTRIBUTE, "sets attributes of a function"),
        (b"\x80\x02cos\nsystem\n.", "names os.system"),
        (b"\x80\x02]r\xff\xff\xff\x7f.", "remembers object 2147483647 after 2 steps"),
        (pickle.dumps(([b"a"] * 4, [True] * 2))[:-3], "is not a readable pickle"),
        (b"", "is not a readable pickle"),
        (b"no pickle", "is not a readable pickle"),
        (pickle.dumps([b"a"]), r"must hold \(images, same\), got list of 1"),
        (pickle.dumps((["a", "b"], [True])), "must hold a list of encoded images first"),
        (pickle.dumps(([b"a", b"b"], [3])), "must hold a list of bool second"),
        (pickle.dumps(([b"a", b"b", b"c"], [True])), "two images per pair, got 3 images and 1"),
        (pickle.dumps(([], [])), "two images per pair"),
    ],
)
def test_other_pickles_are_refused(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_verification_bin(path)
    assert not Path("/tmp/facekernels-unpickled").exists()


def test_missing_bin(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a file"):
        read_verification_bin(tmp_path / "lfw.bin")
