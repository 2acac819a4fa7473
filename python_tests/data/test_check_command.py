"""`facekernels data check`: what it prints, and its exit code."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from facekernels.cli import main
from facekernels.cli.data import LAYOUTS

Put = Callable[..., Path]


@pytest.fixture
def rafdb(tmp_path: Path, put: Put) -> Path:
    names = [f"{split}_{k:05d}" for split in ("train", "test") for k in range(1, 8)]
    for name in names:
        put(tmp_path / f"Image/aligned/{name}_aligned.jpg")
    text = "".join(f"{name}.jpg {name[-1]}\n" for name in names)
    put(tmp_path / "EmoLabel/list_patition_label.txt", text + "train_00001.jpg 9\n")
    return tmp_path


def repaired(rafdb: Path) -> Path:
    path = rafdb / "EmoLabel/list_patition_label.txt"
    path.write_text(path.read_text().replace("train_00001.jpg 9\n", ""))
    return rafdb


def test_a_sound_set(rafdb: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "rafdb", str(repaired(rafdb)), "--images", "3"]) == 0
    out = capsys.readouterr().out
    assert "train: 7 images, 3 of them decoded" in out
    assert "test: 7 images, 3 of them decoded" in out
    assert out.count("  Surprise                1\n") == 2


def test_problems_are_counted_and_located(rafdb: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "rafdb", str(rafdb)]) == 1
    out = capsys.readouterr().out
    assert "  label out of range      1\n" in out
    assert "list_patition_label.txt:15: expected 1 to 7, got 9\n" in out


def test_strict_stops_at_the_first(rafdb: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "rafdb", str(rafdb), "--strict"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("train: ")
    assert captured.err.rstrip().endswith("label out of range: expected 1 to 7, got 9")
    assert captured.out == ""


def test_damaged_images(rafdb: Path, put: Put, capsys: pytest.CaptureFixture[str]) -> None:
    put(repaired(rafdb) / "Image/aligned/test_00007_aligned.jpg", "no image")
    command = ["data", "check", "rafdb", str(rafdb), "--images"]
    assert main([*command, "2"]) == 0  # not among those that are decoded
    assert main([*command, "all"]) == 1
    out = capsys.readouterr().out
    assert "  unreadable image        1\n" in out
    assert "test_00007_aligned.jpg: cannot identify image file" in out


def test_nothing_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in LAYOUTS:
        assert main(["data", "check", name, str(tmp_path / "nowhere")]) == 1
        assert f"{tmp_path / 'nowhere'} is not a f" in capsys.readouterr().err


def test_a_split_that_is_not_there(
    tmp_path: Path, put: Put, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "val"):
        put(tmp_path / f"{split}.csv", "a.jpg;25.5;3.0\n")
        put(tmp_path / split / "a.jpg")
    assert main(["data", "check", "clap", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.count("age                     26 to 26, mean 25.5\n") == 2
    assert "test: " in out
    assert "must hold the labels" in out


def test_pairs_and_persons(
    tmp_path: Path, put: Put, jpeg: Callable[[int], bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    images = [jpeg(10 * i) for i in range(6)]
    path = put(tmp_path / "lfw.bin", pickle.dumps((images, [True, False, False])))
    assert main(["data", "check", "verification-bin", str(path)]) == 0
    out = capsys.readouterr().out
    assert "pairs of one person     1\n" in out
    assert "pairs of two            2\n" in out
    for i in range(25):
        put(tmp_path / f"persons/{i:02d}/a.jpg")
    put(tmp_path / "persons/00/b.jpg")
    assert main(["data", "check", "identities", str(tmp_path / "persons")]) == 0
    assert "images per class        1 to 2, median 1\n" in capsys.readouterr().out


def test_ages_and_genders(tmp_path: Path, put: Put, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "data/a.jpg")
    put(tmp_path / "label.txt", "path age gender\na.jpg 25 1.0\nb.jpg nan 0\n")
    assert main(["data", "check", "imdb", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "male                    1\n" in out
    assert "left out                1 (age or gender is nan)\n" in out


@pytest.mark.parametrize("argv", [["data"], ["data", "check", "lfw", "."],
                                  ["data", "check", "rafdb", ".", "--images", "some"]])  # fmt: skip
def test_wrong_use(argv: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(argv)
