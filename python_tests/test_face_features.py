"""Readers for the files of the public clustering benchmarks: what they take and refuse."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facekernels.data.face_features import read_features, read_knn, read_labels, write_labels

FEATURES = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)


def saved(path: Path, array: Any) -> Path:
    np.save(path, array)
    return path


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("mmap", [True, False])
def test_npy_features_keep_their_dtype(tmp_path: Path, dtype: type, mmap: bool) -> None:
    expected = FEATURES.astype(dtype)
    features = read_features(saved(tmp_path / "f.npy", expected), dim=3, mmap=mmap)
    assert features.dtype == dtype
    assert isinstance(features, np.memmap) == mmap
    np.testing.assert_array_equal(features, expected)


def test_npy_features_of_other_orders(tmp_path: Path) -> None:
    for array in (np.asfortranarray(FEATURES), FEATURES.astype(">f4")):
        features = read_features(saved(tmp_path / "f.npy", array))
        assert features.dtype == np.float32
        assert features.dtype.isnative
        np.testing.assert_array_equal(features, FEATURES)


@pytest.mark.parametrize("mmap", [True, False])
def test_bin_features(tmp_path: Path, mmap: bool) -> None:
    path = tmp_path / "f.bin"
    path.write_bytes(FEATURES.astype("<f4").tobytes())
    features = read_features(path, dim=3, mmap=mmap)
    assert isinstance(features, np.memmap) == mmap
    np.testing.assert_array_equal(features, FEATURES)
    with pytest.raises(ValueError, match=r"dim must be given for .*f\.bin, which holds 21 float32"):
        read_features(path)
    with pytest.raises(ValueError, match=r"rows of 4 float32 .* got 84 bytes: 5 rows and 4 bytes"):
        read_features(path, dim=4)
    with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
        read_features(path, dim=0)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="got 0 bytes"):
        read_features(path, dim=3)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("key", ["anything", "features", "feature", "data"])
def test_npz_features(tmp_path: Path, save: Any, key: str) -> None:
    others = {} if key == "anything" else {"other": np.arange(3)}
    save(tmp_path / "f.npz", **others, **{key: FEATURES})
    np.testing.assert_array_equal(read_features(tmp_path / "f.npz"), FEATURES)
    save(tmp_path / "f.npz", **{key: np.asfortranarray(FEATURES)})
    np.testing.assert_array_equal(read_features(tmp_path / "f.npz"), FEATURES)


def test_npz_without_a_known_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", a=FEATURES, b=FEATURES)
    with pytest.raises(ValueError, match=r"f\.npz must hold one array or one named .*, got a, b"):
        read_features(tmp_path / "f.npz")
    np.savez(tmp_path / "f.npz")
    with pytest.raises(ValueError, match="got none"):
        read_features(tmp_path / "f.npz")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(4, np.float32), r"must hold features \[N, D\], got shape \[4\]"),
        (np.zeros((2, 3), np.int64), "must hold float16, float32 or float64, got int64"),
        (np.zeros((2, 4), np.float32), "must hold features of dim 3, got 4"),
        (np.array([[1, "a"]], object), "got Python objects, which are not unpickled"),
    ],
)
def test_features_that_are_none(tmp_path: Path, array: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"f\.npy .*{message}"):
        read_features(saved(tmp_path / "f.npy", array), dim=3)
    np.savez(tmp_path / "f.npz", x=array)
    with pytest.raises(ValueError, match=message):
        read_features(tmp_path / "f.npz", dim=3)


def test_paths_that_are_none(tmp_path: Path) -> None:
    for read in (read_features, read_labels, read_knn):
        for name in ("f.npy", "f.npz"):
            with pytest.raises(FileNotFoundError, match=name):
                read(tmp_path / name)
        with pytest.raises(ValueError, match=r"path must end in \.npy.*, got f\.pkl"):
            read("f.pkl")
    with pytest.raises(FileNotFoundError):
        read_features(tmp_path / "f.bin", dim=3)
    with pytest.raises(FileNotFoundError):
        read_labels(tmp_path / "f.meta")


@pytest.mark.parametrize("mmap", [True, False])
def test_truncated_npy_at_every_length(tmp_path: Path, mmap: bool) -> None:
    path = saved(tmp_path / "f.npy", FEATURES)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"f\.npy is (damaged|truncated)"):
            read_features(path, mmap=mmap)


def features_or_error(path: Path) -> Any:
    try:
        return read_features(path)
    except ValueError as error:
        return str(error)


def test_damaged_npz_is_named(tmp_path: Path) -> None:
    path = tmp_path / "f.npz"
    np.savez_compressed(path, data=np.zeros((40, 3), np.float32))
    whole = path.read_bytes()
    for size in range(0, len(whole), 3):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"f\.npz"):
            read_features(path)
    for position in range(len(whole)):  # not every byte matters, but none gives another error
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        found = features_or_error(path)
        assert "f.npz" in found if isinstance(found, str) else not found.any()


def test_damaged_npy_header_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "f.npy", FEATURES)
    whole = path.read_bytes()
    for position in range(len(whole) - FEATURES.nbytes):
        for flip in (0x01, 0x10, 0xFF):
            damaged = bytearray(whole)
            damaged[position] ^= flip
            path.write_bytes(damaged)
            found = features_or_error(path)
            assert not isinstance(found, str) or "f.npy" in found


def test_npz_member_that_is_no_array(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "f.npz", "w") as archive:
        archive.writestr("data.npy", b"no array")
    with pytest.raises(ValueError, match=r"f\.npz \(data\) is damaged or no \.npy array"):
        read_features(tmp_path / "f.npz")


@pytest.mark.parametrize("suffix", [".npy", ".meta", ".txt"])
@pytest.mark.parametrize("labels", [[3, -1, 2**63 - 1, -(2**63)], []])
def test_labels_come_back(tmp_path: Path, suffix: str, labels: list[int]) -> None:
    path = tmp_path / f"folder/l{suffix}"
    write_labels(path, np.array(labels, np.int64))
    read = read_labels(path)
    assert read.dtype == np.int64
    assert read.tolist() == labels
    write_labels(path, [5])  # replaces, and takes sequences
    assert read_labels(path).tolist() == [5]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_labels_of_other_writers(tmp_path: Path) -> None:
    np.savez(tmp_path / "l.npz", labels=np.array([1.0, 2.0]), more=np.zeros(1))
    assert read_labels(tmp_path / "l.npz").tolist() == [1, 2]
    (tmp_path / "l.meta").write_bytes(b"1\r\n 2 \r\n3")
    assert read_labels(tmp_path / "l.meta").tolist() == [1, 2, 3]
    assert read_labels(saved(tmp_path / "l.npy", np.array([7], np.uint64))).tolist() == [7]


@pytest.mark.parametrize("bad", ["x", "", "1.5", "1 2", "1_0", "9223372036854775808", "\xe9"])
def test_bad_line_is_named(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "l.meta"
    path.write_text(f"1\n2\n{bad}\n4\n", encoding="latin1")
    message = r"l\.meta must hold one int64 integer per line, got '.*' in line 3"
    with pytest.raises(ValueError, match=message):
        read_labels(path)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 2), int), r"must hold labels \[N\], got shape \[2, 2\]"),
        (np.array([1, 1.5]), r"must hold labels that are int64 integers, got 1\.5"),
        (np.array([np.nan]), "got nan"),
        (np.array([np.inf]), "got inf"),
        (np.array([2.0**63]), r"got 9\.2"),
        (np.array([2**63], np.uint64), "got 9223372036854775808"),
        (np.array(["a"]), "must hold integers, got <U1"),
        (np.array([True]), "must hold integers, got bool"),
        (np.array([1, None]), "got Python objects"),
    ],
)
def test_labels_that_are_none(tmp_path: Path, array: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"l\.npy .*{message}"):
        read_labels(saved(tmp_path / "l.npy", array))


def test_write_labels_refuses(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="labels must hold integers, got float64"):
        write_labels(tmp_path / "l.npy", [1.0])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"labels must be \[N\], got shape \[1, 1\]"):
        write_labels(tmp_path / "l.npy", np.zeros((1, 1), int))
    with pytest.raises(ValueError, match="labels must fit into int64"):
        write_labels(tmp_path / "l.npy", np.array([2**63], np.uint64))
    with pytest.raises(ValueError, match=r"path must end in \.npy, \.meta or \.txt"):
        write_labels(tmp_path / "l.bin", [1])
    assert not list(tmp_path.iterdir())


# Row 2 is pushed out of column 0 by equal rows, row 3 is not there at all.
IDS = np.array([[0, 1, 2], [1, 0, 3], [0, 2, 1], [0, 1, 2]])
NEIGHBOURS = [[1, 2], [0, 3], [0, 1], [0, 1]]
DISTANCES = np.array([[0, 0.25, 0.5], [0, 0.125, 1], [0, 0, 0.75], [0.5, 0.5, 0.75]])
SIMILARITIES = [[0.75, 0.5], [0.875, 0], [1, 0.25], [0.5, 0.5]]


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32, np.float64])
def test_knn_of_gcn_clustering(tmp_path: Path, dtype: type) -> None:
    idx, sim = read_knn(saved(tmp_path / "k.npy", IDS.astype(dtype)))
    assert idx.dtype == np.int64
    assert idx.tolist() == NEIGHBOURS
    assert sim is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_knn_of_learn_to_cluster(tmp_path: Path, dtype: type) -> None:
    knn = np.stack([IDS, DISTANCES], 1).astype(dtype)
    np.savez_compressed(tmp_path / "k.npz", data=knn)
    np.save(tmp_path / "k.npy", knn[:, :, [2, 0, 1]])  # its own search by parts does not sort
    for name in ("k.npz", "k.npy"):
        idx, sim = read_knn(tmp_path / name)
        assert idx.tolist() == NEIGHBOURS
        assert sim is not None
        assert sim.dtype == np.float32
        assert sim.tolist() == SIMILARITIES


def test_knn_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facekernels.data.face_features._BLOCK", 3)
    knn = np.stack([IDS, DISTANCES], 1)
    idx, sim = read_knn(saved(tmp_path / "k.npy", knn))
    assert idx.tolist() == NEIGHBOURS
    assert sim is not None
    assert sim.tolist() == SIMILARITIES
    knn[3, 0, 1] = 4
    with pytest.raises(ValueError, match="got 4 in row 3"):
        read_knn(saved(tmp_path / "k.npy", knn))


def test_truncated_distances_are_told(tmp_path: Path) -> None:
    knn = np.stack([IDS, DISTANCES.astype(int)], 1)
    with pytest.warns(UserWarning, match=r"every distance in .*k\.npy is 0 or 1, as if truncated"):
        read_knn(saved(tmp_path / "k.npy", knn))


def changed(row: int, part: int, column: int, value: float) -> Any:
    knn = np.stack([IDS, DISTANCES], 1)
    knn[row, part, column] = value
    return knn


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3, 4)), r"must hold ids .*, got shape \[2, 3, 4\]"),
        (np.zeros(4), r"got shape \[4\]"),
        (np.arange(3)[:, None], "each row and a neighbour at least, got 1 ids"),
        (changed(1, 0, 2, 1), "must hold a row once among its neighbours, got row 1 2 times"),
        (changed(1, 0, 2, -1), r"must hold ids of its 4 rows, got -1 in row 1 \(-1 stands"),
        (changed(1, 0, 2, 4), "must hold ids of its 4 rows, got 4 in row 1"),
        (changed(1, 0, 2, 0.5), r"must hold ids that are int64 integers, got 0\.5"),
        (changed(1, 1, 2, np.nan), "distances that are not finite in row 1"),
        (np.zeros((2049, 2), np.float16), "holds ids as float16, which cannot tell 2049 rows"),
        (np.array([["a", "b"]]), "must hold integers, got <U1"),
    ],
)
def test_graphs_that_are_none(tmp_path: Path, array: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"k\.npy .*{message}"):
        read_knn(saved(tmp_path / "k.npy", array))


def test_ragged_graph_is_refused(tmp_path: Path) -> None:
    ragged = np.empty(2, object)
    ragged[:] = [[0, 1], [1]]
    np.savez(tmp_path / "k.npz", data=ragged)
    with pytest.raises(ValueError, match=r"k\.npz \(data\) must hold numbers, got Python objects"):
        read_knn(tmp_path / "k.npz")
