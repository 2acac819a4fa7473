"""Stages: used again exactly when they are whole and of the same making; never half of one."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from facekernels.data import stages as module
from facekernels.data.stages import Stages, StageWarning, fingerprint

INPUT = np.arange(12, dtype=np.float32).reshape(4, 3)


class Counted:
    """A pipeline of two stages that counts what is computed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: list[str] = []

    def run(self, x: Any = INPUT, k: int = 2, scale: float = 1.0) -> dict[str, Any]:
        stages = Stages(self.folder, {"x": x})

        def knn() -> dict[str, Any]:
            self.calls.append("knn")
            return {"idx": np.arange(8).reshape(4, k), "sim": x[:, :1] * k}

        def links() -> dict[str, Any]:
            self.calls.append("links")
            return {"score": np.asarray(first["sim"]) * scale}

        first = stages.stage("knn", knn, settings={"k": k, "metric": "cosine"})
        return {**first, **stages.stage("links", links, settings={"scale": scale})}

    def computed(self) -> list[str]:
        calls, self.calls = self.calls, []
        return calls


@pytest.fixture
def pipeline(tmp_path: Path) -> Counted:
    pipeline = Counted(tmp_path / "stages")
    pipeline.run()
    assert pipeline.computed() == ["knn", "links"]
    return pipeline


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_finished_stage_is_mapped(pipeline: Counted) -> None:
    found = pipeline.run()
    assert pipeline.computed() == []
    assert names(pipeline.folder) == ["knn.idx.npy", "knn.json", "knn.sim.npy", "links.json",
                                      "links.score.npy"]  # fmt: skip
    assert found["idx"].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert found["score"].tolist() == (INPUT[:, :1] * 2).tolist()
    for array in found.values():
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable


@pytest.mark.parametrize(
    ("change", "message", "computed"),
    [
        ({"scale": 2.0}, r"stage links .*: setting scale was 1\.0 and is 2\.0", ["links"]),
        ({"x": INPUT + 1}, 'input x was "<f4 4x3 .* and is "<f4 4x3', None),
        ({"x": INPUT.astype(np.float64)}, 'is "<f8 4x3', None),
    ],
)
def test_other_inputs_and_settings_are_told(
    pipeline: Counted, change: dict[str, Any], message: str, computed: list[str] | None
) -> None:
    with pytest.warns(StageWarning, match=message) as told:
        pipeline.run(**change)
    assert told[0].filename == __file__
    assert pipeline.computed() == (computed or ["knn", "links"])
    pipeline.run(**change)
    assert pipeline.computed() == []


def test_a_stage_depends_on_earlier_ones(tmp_path: Path) -> None:
    def run(k: int) -> None:
        stages = Stages(tmp_path, {})
        stages.stage("a", lambda: {"x": np.ones(1)}, settings={"k": k})
        stages.stage("b", lambda: {"x": np.ones(1)})

    run(1)
    with pytest.warns(StageWarning) as told:
        run(2)
    first, second = (str(warning.message) for warning in told)
    assert first == "stage a is computed again: setting k was 1 and is 2"
    assert second.startswith("stage b is computed again: earlier stage a was ")
    run(2)


def test_the_order_of_settings_and_nan_do_not_matter(tmp_path: Path) -> None:
    one = {"a": float("nan"), "b": (1, 2), "c": np.int64(3), "d": INPUT}
    other = {"d": INPUT.copy(order="F"), "c": 3, "b": [1, 2], "a": float("nan")}
    Stages(tmp_path, one).stage("s", lambda: {"x": np.ones(1)}, settings=one)
    Stages(tmp_path, other).stage("s", pytest.fail, settings=other)


@pytest.mark.parametrize("name", ["knn.idx.npy", "knn.json"])
def test_any_flipped_byte_is_noticed(pipeline: Counted, name: str) -> None:
    path = pipeline.folder / name
    whole = path.read_bytes()
    if name.endswith(".json"):  # layout of the text does not matter, its content does
        path.write_text(json.dumps(json.loads(whole)))
        pipeline.run()
        assert pipeline.computed() == []
    for position in range(0, path.stat().st_size, 5):
        if path.suffix == ".json" and chr(path.read_bytes()[position]).isspace():
            continue
        flip(path, position)
        with pytest.warns(StageWarning, match=rf"{name}.*; stage knn is computed again"):
            pipeline.run()
        # The same values came out, so the later stage stays valid.
        assert pipeline.computed() == ["knn"]


def test_a_flipped_byte_of_a_large_file_is_noticed(tmp_path: Path) -> None:
    """Inputs of this size are sampled; files of stages are not."""
    size = (1 << 26) + (1 << 22)

    def run() -> None:
        Stages(tmp_path, {}).stage("large", lambda: {"x": np.zeros(size, dtype=np.uint8)})

    run()
    sampled = np.linspace(0, size - (1 << 20), 64).astype(int)
    between = int(sampled[3]) + (1 << 20) + 10
    assert between < sampled[4]
    flip(tmp_path / "large.x.npy", 128 + between)
    with pytest.warns(StageWarning, match=r"large\.x\.npy is damaged: its checksum is wrong"):
        run()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: os.truncate(f / "knn.sim.npy", 130), r"knn\.sim\.npy is damaged: it has 130 by"),
        (lambda f: os.truncate(f / "knn.sim.npy", 0), r"knn\.sim\.npy is damaged: it has 0 bytes"),
        (lambda f: (f / "knn.sim.npy").unlink(), r"knn\.sim\.npy is missing"),
        (lambda f: shutil.copy(f / "knn.idx.npy", f / "knn.sim.npy"), r"knn\.sim\.npy is damaged"),
        (
            lambda f: np.save(f / "knn.sim.npy", INPUT[:, :1]),
            r"knn\.sim\.npy is damaged: its check",
        ),
        (lambda f: (f / "knn.json").unlink(), r"knn\.idx\.npy, knn\.sim\.npy in .* unfinished"),
        (lambda f: (f / "knn.json").write_text("{}"), r"knn\.json is not a manifest of this vers"),
        (lambda f: os.truncate(f / "knn.json", 100), r"knn\.json is damaged"),
        (lambda f: shutil.copy(f / "links.json", f / "knn.json"), "setting k was absent and is 2"),
    ],
)
def test_damaged_and_foreign_files_are_told_and_redone(
    pipeline: Counted, damage: Callable[[Path], object], message: str
) -> None:
    damage(pipeline.folder)
    with pytest.warns(StageWarning, match=message):
        found = pipeline.run()
    assert pipeline.computed() == ["knn"]
    assert found["sim"].tolist() == (INPUT[:, :1] * 2).tolist()
    pipeline.run()
    assert pipeline.computed() == []


def test_arrays_of_all_shapes_and_dtypes(tmp_path: Path) -> None:
    arrays = {
        "empty": np.zeros((0, 4), np.float32),
        "scalar": np.array(3.5),
        "fortran": np.asfortranarray(INPUT),
        "strided": INPUT[::-2, ::2],
        "half": INPUT.astype(np.float16),
        "bool": INPUT > 3,
        "big": INPUT.astype(">f8"),
        "text": np.array(["a", "bc"]),
        "long": np.arange(1 << 19, dtype=np.int64),  # several blocks
    }
    for compute in (lambda: arrays, pytest.fail):
        found = Stages(tmp_path, {}).stage("s", compute)
        assert list(found) == list(arrays)
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype
            assert found[name].shape == array.shape
            np.testing.assert_array_equal(found[name], array)


def test_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="input x must be a NumPy array or a JSON value: got set"):
        Stages(tmp_path, {"x": {1}})
    stages = Stages(tmp_path, {})
    with pytest.raises(TypeError, match=r"setting y must be .*: got PosixPath"):
        stages.stage("a", pytest.fail, settings={"y": tmp_path})
    for name in ("", "a.b", "../a", "*"):
        with pytest.raises(ValueError, match="name must be letters"):
            stages.stage(name, pytest.fail)
        with pytest.raises(ValueError, match="array names of stage a must be letters"):
            stages.stage("a", lambda name=name: {name: INPUT})
    with pytest.raises(TypeError, match="compute of stage a must return arrays by name, got list"):
        stages.stage("a", lambda: [INPUT])  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match="x of stage a must be a NumPy array, got list"):
        stages.stage("a", lambda: {"x": [1]})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="x of stage a must hold numbers or text, got object"):
        stages.stage("a", lambda: {"x": np.array([None])})
    with pytest.raises(TypeError, match="x of stage a must hold numbers or text, got object"):
        stages.chunked_stage("a", {"x": ((3,), object)}, 1, pytest.fail)
    with pytest.raises(ValueError, match=r"x of stage a must have a shape, got \[-3\]"):
        stages.chunked_stage("a", {"x": ((-3,), int)}, 1, pytest.fail)
    with pytest.raises(ValueError, match="chunks must be at least 1, got 0"):
        stages.chunked_stage("a", {"x": ((3,), int)}, 0, pytest.fail)
    assert not list(tmp_path.iterdir())
    stages.stage("a", lambda: {"x": INPUT})
    with pytest.raises(ValueError, match="name must be new for each stage, got 'a' again"):
        stages.stage("a", pytest.fail)


def test_fingerprint_is_of_values_shape_and_dtype() -> None:
    assert fingerprint(INPUT) == fingerprint(np.asfortranarray(INPUT))
    assert fingerprint(np.float32([1])[0:1]) != fingerprint(np.float32([[1]]))
    others = [INPUT.reshape(3, 4), INPUT.astype(np.float64), INPUT[::-1], INPUT.view(np.int32),
              np.array(1), np.zeros((0, 3))]  # fmt: skip
    assert len({fingerprint(a) for a in [INPUT, *others]}) == 7
    with pytest.raises(TypeError, match="array must be a NumPy array, got list"):
        fingerprint([1])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="array must hold numbers or text, got object"):
        fingerprint(np.array([None]))


def test_fingerprint_of_a_large_array_reads_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 64)
    x = np.zeros((4096, 4), np.float32)  # 65536 bytes, 64 blocks of 64 are read
    before = fingerprint(x)
    seen = []
    for row in range(len(x)):
        x[row, 0] = 1
        seen.append(fingerprint(x) != before)
        x[row, 0] = 0
    assert sum(seen) == 64 * 4
    assert seen[0]
    assert seen[-1]
    assert max(np.diff(np.flatnonzero(seen))) <= 4096 // 63 + 1


def test_too_little_space_is_told_before_writing(
    pipeline: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = Stages(pipeline.folder, {"x": INPUT})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    message = (
        r"No space left on device: 4128 bytes are needed, 1000 are free: .*stages/new\.\*\.npy"
    )
    with pytest.raises(OSError, match=message) as caught:
        stages.stage("new", lambda: {"a": np.zeros(32, np.uint8)})
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="4128 bytes are needed"):
        stages.chunked_stage("new", {"a": ((32,), np.uint8)}, 2, pytest.fail)
    assert not any("new" in name for name in names(pipeline.folder))
    pipeline.run()
    assert pipeline.computed() == []


class FullDisk:
    """The disk is full, or Ctrl-C comes, at the nth file that is written."""

    error: ClassVar[dict[str, BaseException]] = {
        "full": OSError(errno.ENOSPC, "No space left on device"),
        "interrupt": KeyboardInterrupt(),
    }

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: str, nth: int) -> None:
        self.left, self.kind = nth, kind
        real = os.fsync  # each file is synced once, after its last byte

        def fsync(handle: int) -> None:
            self.left -= 1
            if self.left == 0:
                raise self.error[kind]
            real(handle)

        monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("kind", ["full", "interrupt"])
@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_failed_write_leaves_nothing(
    pipeline: Counted, monkeypatch: pytest.MonkeyPatch, kind: str, nth: int, chunked: bool
) -> None:
    before = names(pipeline.folder)
    stages = Stages(pipeline.folder, {"x": INPUT})
    with monkeypatch.context() as patch:
        FullDisk(patch, kind, nth)
        with pytest.raises((OSError, KeyboardInterrupt)) as caught:  # noqa: PT012
            if chunked:
                layout = {"a": ((4,), np.float32), "b": ((4,), np.float32)}
                stages.chunked_stage("new", layout, 2, pytest.fail)
            else:
                stages.stage("new", lambda: {"a": INPUT, "b": INPUT})
    if kind == "full":
        assert caught.value.errno == errno.ENOSPC
        written = ["new.a.npy", "new.b.npy", "new.json"][nth - 1]
        assert str(pipeline.folder / written) in str(caught.value)
        assert "bytes are needed" in str(caught.value)
    assert names(pipeline.folder) == before
    pipeline.run()
    assert pipeline.computed() == []


def test_no_space_when_allocating(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"4128 bytes are needed, .*s\.a\.npy"):
        Stages(tmp_path, {}).chunked_stage("s", {"a": ((32,), np.uint8)}, 2, pytest.fail)
    assert not names(tmp_path)


def test_other_errors_of_the_disk_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = OSError(errno.EIO, "Input/output error")
    monkeypatch.setitem(FullDisk.error, "full", error)
    FullDisk(monkeypatch, "full", 1)
    with pytest.raises(OSError, match="Input/output") as caught:
        Stages(tmp_path, {}).stage("s", lambda: {"a": INPUT})
    assert caught.value is error
    assert not names(tmp_path)


def test_interrupted_compute_keeps_what_was_there(pipeline: Counted) -> None:
    def interrupt() -> dict[str, Any]:
        raise KeyboardInterrupt

    before = names(pipeline.folder)
    stages = Stages(pipeline.folder, {"x": INPUT})
    with pytest.raises(KeyboardInterrupt), pytest.warns(StageWarning, match="setting k was 2"):
        stages.stage("knn", interrupt, settings={"k": 3})
    assert names(pipeline.folder) == before
    pipeline.run()
    assert pipeline.computed() == []


class Chunks:
    """Five chunks of two rows each."""

    layout: ClassVar[dict[str, Any]] = {"x": ((10, 3), np.float32), "n": ((5,), np.int64)}

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stop_at: int | None = None
        self.calls: list[int] = []

    def run(self, chunks: int = 5, **settings: Any) -> dict[str, Any]:
        stages = Stages(self.folder, {"input": INPUT})
        return stages.chunked_stage("s", self.layout, chunks, self.compute, settings=settings)

    def compute(self, i: int, views: dict[str, Any]) -> None:
        self.calls.append(i)
        views["x"][2 * i] = i
        if i == self.stop_at:
            raise KeyboardInterrupt
        views["x"][2 * i + 1] = -i
        views["n"][i] = i + 1

    def computed(self) -> list[int]:
        calls, self.calls = self.calls, []
        return calls


def check_chunks(found: dict[str, Any]) -> None:
    assert found["n"].tolist() == [1, 2, 3, 4, 5]
    assert found["x"][:, 1].tolist() == [0, 0, 1, -1, 2, -2, 3, -3, 4, -4]
    assert not found["x"].flags.writeable


@pytest.fixture
def interrupted(tmp_path: Path) -> Chunks:
    """Chunk 3 of 0, ..., 4 was interrupted."""
    chunks = Chunks(tmp_path / "chunks")
    chunks.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        chunks.run()
    assert chunks.computed() == [0, 1, 2, 3]
    assert names(chunks.folder) == ["s.json", "s.n.npy", "s.x.npy"]
    chunks.stop_at = None
    return chunks


def test_chunks_continue_where_they_ended(interrupted: Chunks) -> None:
    check_chunks(interrupted.run())
    assert interrupted.computed() == [3, 4]
    check_chunks(interrupted.run())
    assert interrupted.computed() == []


def test_finished_chunks_are_checked_whole(interrupted: Chunks) -> None:
    interrupted.run()
    interrupted.computed()
    flip(interrupted.folder / "s.x.npy", -1)
    with pytest.warns(StageWarning, match=r"s\.x\.npy is damaged: its checksum is wrong"):
        check_chunks(interrupted.run())
    assert interrupted.computed() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: os.truncate(f / "s.x.npy", 200), r"s\.x\.npy is damaged: it has 200 bytes"),
        (lambda f: flip(f / "s.x.npy", 20), r"s\.x\.npy is damaged: its checksum is wrong"),
        (lambda f: (f / "s.n.npy").unlink(), r"s\.n\.npy is missing"),
        (
            lambda f: (f / "s.json").write_text(
                (f / "s.json").read_text().replace('"done": 3', '"done": 4')
            ),
            r"s\.json was changed",
        ),
    ],
)
def test_damaged_chunks_start_again(
    interrupted: Chunks, damage: Callable[[Path], object], message: str
) -> None:
    damage(interrupted.folder)
    with pytest.warns(StageWarning, match=message):
        check_chunks(interrupted.run())
    assert interrupted.computed() == [0, 1, 2, 3, 4]


def test_chunks_of_another_making_start_again(interrupted: Chunks) -> None:
    with pytest.warns(StageWarning, match="setting k was absent and is 7"):
        check_chunks(interrupted.run(k=7))
    assert interrupted.computed() == [0, 1, 2, 3, 4]
    interrupted.stop_at = 3
    with (
        pytest.warns(StageWarning, match="layout: chunks was 5 and is 4"),
        pytest.raises(KeyboardInterrupt),
    ):
        interrupted.run(chunks=4, k=7)
    with pytest.warns(StageWarning, match="layout: array n was .* and is absent"):
        Stages(interrupted.folder, {"input": INPUT}).stage(
            "s", lambda: {"x": INPUT}, settings={"k": 7}
        )
    assert names(interrupted.folder) == ["s.json", "s.x.npy"]


def test_a_killed_process_leaves_no_trace_for_long(tmp_path: Path) -> None:
    code = (
        "import os, sys, numpy as np\n"
        "from facekernels.data import stages\n"
        "os.fsync = lambda handle: os.kill(os.getpid(), 9)\n"
        "stages.Stages(sys.argv[1], {}).stage('s', lambda: {'x': np.ones(3)})\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -9
    (left,) = names(tmp_path)
    assert left.startswith(".s.x.npy.")
    with pytest.warns(StageWarning, match=r"\.s\.x\.npy\..* unfinished"):
        Stages(tmp_path, {}).stage("s", lambda: {"x": np.ones(3)})
    assert names(tmp_path) == ["s.json", "s.x.npy"]
