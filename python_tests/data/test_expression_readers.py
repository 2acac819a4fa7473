"""RAF-DB, AffectNet and FERPlus: every layout, and every kind of damage."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from facekernels.data.label_files import DataSetWarning
from facekernels.data.labels import EXPRESSIONS
from facekernels.data.readers import read_affectnet, read_ferplus, read_rafdb
from facekernels.data.readers.ferplus import majority

Put = Callable[..., Path]


@pytest.fixture
def rafdb(tmp_path: Path, put: Put) -> Path:
    """Seven training images, one of each class, and seven test images, in reverse."""
    lines = []
    for k in range(7):
        for split, label in (("train", k + 1), ("test", 7 - k)):
            name = f"{split}_{k + 1:05d}"
            put(tmp_path / f"Image/aligned/{name}_aligned.jpg", 30 * k)
            lines.append(f"{name}.jpg {label}")
    put(tmp_path / "EmoLabel/list_patition_label.txt", "\n".join(lines) + "\n")
    return tmp_path


def label_file(rafdb: Path) -> Path:
    return rafdb / "EmoLabel/list_patition_label.txt"


def test_rafdb(rafdb: Path) -> None:
    train, test = read_rafdb(rafdb, strict=True), read_rafdb(rafdb, "test", strict=True)
    assert train.labels["label"].tolist() == list(range(7))
    assert test.labels["label"].tolist() == list(range(7))[::-1]
    assert train.classes == EXPRESSIONS
    assert train.class_counts.tolist() == [1] * 7
    assert train.images.name(3).endswith("Image/aligned/train_00004_aligned.jpg")
    assert abs(int(train.images.read(3)[0, 0, 0]) - 90) <= 1
    assert train.report.ok


def test_rafdb_in_the_folder_above_and_with_the_other_file_names(rafdb: Path, put: Put) -> None:
    moved = rafdb / "basic"
    for path in (rafdb / "Image/aligned").iterdir():
        put(moved / "Image/aligned" / path.name.replace("_aligned", ""), path.read_bytes())
    put(moved / "list_patition_label.txt", label_file(rafdb).read_text())
    assert len(read_rafdb(rafdb, strict=True)) == 7


def test_rafdb_in_class_folders(tmp_path: Path, put: Put) -> None:
    for k in range(7):
        put(tmp_path / f"train/{k + 1}/a{k}.jpg")
    found = read_rafdb(tmp_path, strict=True)
    assert found.labels["label"].tolist() == list(range(7))
    put(tmp_path / "train/8/b.jpg")
    with pytest.raises(ValueError, match=r"train/8: label out of range: the folder names no"):
        read_rafdb(tmp_path, strict=True)


def test_windows_line_ends_byte_order_mark_and_blank_lines(rafdb: Path) -> None:
    text = label_file(rafdb).read_bytes()
    label_file(rafdb).write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n") + b"\r\n  \r\n")
    assert len(read_rafdb(rafdb, strict=True)) == 7


def damaged(rafdb: Path, line: bytes) -> tuple[Path, int]:
    """Append a line and give its number."""
    with label_file(rafdb).open("ab") as file:
        file.write(line + b"\n")
    return rafdb, label_file(rafdb).read_bytes().count(b"\n")


@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        (b"train_00009.jpg 1", "missing file", "train_00009.jpg does not exist"),
        (b"train_00001.jpg", "unreadable line", "expected NAME LABEL, got 'train_00001.jpg'"),
        (b"train_00001.jpg 1 2", "unreadable line", "expected NAME LABEL"),
        (b"train_00001.jpg 1.5", "unreadable line", "expected NAME LABEL"),
        (b"train_00001.jpg 8", "label out of range", "expected 1 to 7, got 8"),
        (b"train_00001.jpg 0", "label out of range", "expected 1 to 7, got 0"),
        (b"train_00001.jpg 2", "duplicate entry", r"list_patition_label.txt:1 already"),
        (b"train_\xe9.jpg 2", "missing file", r"train_\udce9.jpg does not exist"),
    ],
)
def test_rafdb_problems(rafdb: Path, line: bytes, kind: str, message: str) -> None:
    root, number = damaged(rafdb, line)
    with pytest.warns(DataSetWarning, match=f"7 usable images; {kind}: 1; first: "):
        report = read_rafdb(root).report
    assert report.counts == {kind: 1}
    (problem,) = report.problems
    assert problem.where == f"{label_file(rafdb)}:{number}"
    assert message in str(problem)
    with pytest.raises(ValueError, match=f":{number}: {kind}: "):
        read_rafdb(root, strict=True)


def test_a_name_that_is_not_utf8(rafdb: Path, put: Put) -> None:
    put(Path(os.fsdecode(bytes(rafdb / "Image/aligned") + b"/train_\xe9_aligned.jpg")), 77)
    root, _ = damaged(rafdb, b"train_\xe9.jpg 2")
    found = read_rafdb(root, strict=True)
    assert len(found) == 8
    assert abs(int(found.images.read(7)[0, 0, 0]) - 77) <= 1


def test_empty_class_and_empty_file(rafdb: Path) -> None:
    lines = label_file(rafdb).read_text().splitlines()
    label_file(rafdb).write_text("\n".join(line for line in lines if not line.endswith(" 3")))
    with pytest.warns(DataSetWarning):
        report = read_rafdb(rafdb).report
    assert [p.message for p in report.problems] == ["no image of Disgust"]
    label_file(rafdb).write_text("")
    with pytest.raises(ValueError, match=r"label\.txt gives no usable image: empty class: 7"):
        read_rafdb(rafdb)


def test_missing_folders(tmp_path: Path, rafdb: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        read_rafdb(tmp_path / "nowhere")
    label_file(rafdb).unlink()
    with pytest.raises(FileNotFoundError, match=r"must hold the labels: none of EmoLabel/list_pa"):
        read_rafdb(rafdb)


@pytest.mark.parametrize("read", [read_rafdb, read_affectnet, read_ferplus])
def test_unknown_split(read: Callable[..., object], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^split must be .*, got 'dev'$"):
        read(tmp_path, "dev")


# AffectNet numbers Neutral, Happy, Sad, Surprise, Fear, Disgust, Anger, Contempt.
AS_EXPRESSIONS = [6, 3, 4, 0, 1, 2, 5, 7]


def affectnet_set(root: Path, put: Put) -> None:
    for k in range(11):
        put(root / f"train_set/images/{k:02d}.jpg")
        (root / "train_set/annotations").mkdir(exist_ok=True)
        np.save(root / f"train_set/annotations/{k:02d}_exp.npy", np.array(str(k)))
        np.save(root / f"train_set/annotations/{k:02d}_val.npy", np.array("0.1"))


def affectnet_table(root: Path, put: Put) -> None:
    rows = ["subDirectory_filePath,face_x,facial_landmarks,expression,valence"]
    for k in range(11):
        put(root / f"Manually_Annotated_Images/{k}/a.jpg")
        rows.append(f'{k}/a.jpg,0,"1.0;2.0;3.0",{k},-2')
    put(root / "training.csv", "\r\n".join(rows))


def affectnet_folders(root: Path, put: Put) -> None:
    for k in range(8):
        put(root / f"train/{k}/a.png")


@pytest.mark.parametrize("form", [affectnet_set, affectnet_table, affectnet_folders])
def test_affectnet(form: Callable[[Path, Put], None], tmp_path: Path, put: Put) -> None:
    form(tmp_path, put)
    found = read_affectnet(tmp_path, contempt=True, strict=True)
    assert found.labels["label"].tolist() == AS_EXPRESSIONS
    assert found.classes == (*EXPRESSIONS, "Contempt")
    seven = read_affectnet(tmp_path, strict=True)
    assert seven.labels["label"].tolist() == AS_EXPRESSIONS[:7]
    others = {} if form is affectnet_folders else {"None": 1, "Uncertain": 1, "No-Face": 1}
    assert seven.report.left_out == {"Contempt": 1, **others}
    with pytest.raises(FileNotFoundError, match="AffectNet's val split"):
        read_affectnet(tmp_path, "val")


def test_affectnet_folders_by_name_and_text_of_swinface(tmp_path: Path, put: Put) -> None:
    names = ["Surprise", "fear", "Disgust", "happiness", "sad", "Angry", "neutral"]
    for name in names:
        put(tmp_path / f"val/{name}/a.png")
    found = read_affectnet(tmp_path, "val", strict=True)
    by_folder = {Path(found.images.name(i)).parent.name: int(found.labels["label"][i])
                 for i in range(7)}  # fmt: skip
    assert by_folder == {name: k for k, name in enumerate(names)}

    for k in range(7):
        put(tmp_path / f"data/{k}.jpg")
    rows = ["path box label", *(f"{k}.jpg 0 {k}" for k in range(7))]
    put(tmp_path / "label.txt", "\n".join(rows))
    assert read_affectnet(tmp_path, strict=True).labels["label"].tolist() == list(range(7))


def test_affectnet_problems(tmp_path: Path, put: Put) -> None:
    affectnet_table(tmp_path, put)
    with (tmp_path / "training.csv").open("a") as file:
        file.write("\n1/b.jpg,0,1,2\n1/a.jpg,0,1,x,0\n1/a.jpg,0,1,11,0\n")
    with pytest.warns(DataSetWarning):
        report = read_affectnet(tmp_path).report
    assert [(p.where.rpartition(":")[2], p.kind, p.message) for p in report.problems] == [
        ("13", "unreadable line", "expected 5 columns, got 4"),
        ("14", "unreadable line", "expected a number, got 'x'"),
        ("15", "label out of range", "expected 0 to 10, got 11"),
    ]
    put(tmp_path / "training.csv", "file,expression\na.jpg,1\n")
    with pytest.raises(ValueError, match="must have the columns subDirectory_filePath, expression"):
        read_affectnet(tmp_path)


def test_affectnet_annotation_that_is_an_object_is_not_unpickled(tmp_path: Path, put: Put) -> None:
    affectnet_set(tmp_path, put)
    path = tmp_path / "train_set/annotations/00_exp.npy"
    np.save(path, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"00_exp.npy: unreadable line: no number in it: Object"):
        read_affectnet(tmp_path, strict=True)


FERPLUS_HEADER = (
    "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
)


def ferplus_rows() -> list[str]:
    """One training image for each of the eight classes, then three without; one for validation."""
    votes = np.eye(8, 10, dtype=int) * 9 + np.eye(8, 10, 1, dtype=int)
    rows = [f"Training,fer{i:07d}.png,{','.join(map(str, v))}" for i, v in enumerate(votes)]
    rows.append("Training,fer0000008.png,4,4,0,0,0,0,0,0,0,0")
    rows.append("Training,,0,0,0,0,0,0,0,0,0,10")
    rows.append("Training,fer0000010.png,0,0,0,0,0,0,0,0,9,1")
    rows.append("PublicTest,fer0000011.png,9,1,0,0,0,0,0,0,0,0")
    return rows


def ferplus_pixels(rows: list[str]) -> str:
    lines = ["emotion,pixels,Usage"]
    for i, row in enumerate(rows):
        lines.append(f"0,{' '.join([str(i)] * 2304)},{row.split(',')[0]}")
    return "\n".join(lines)


# FERPlus orders neutral, happiness, surprise, sadness, anger, disgust, fear, contempt.
FERPLUS = [6, 3, 0, 4, 5, 2, 1, 7]
FERPLUS_LEFT_OUT = {"no majority": 1, "majority for unknown or no face": 2}


def test_ferplus_with_image_files(tmp_path: Path, put: Put) -> None:
    put(tmp_path / "fer2013new.csv", "\n".join([FERPLUS_HEADER, *ferplus_rows()]))
    for i in range(8):
        put(tmp_path / f"images/FER2013Train/fer{i:07d}.png", i)
    found = read_ferplus(tmp_path, contempt=True, strict=True)
    assert found.labels["label"].tolist() == FERPLUS
    assert found.report.left_out == FERPLUS_LEFT_OUT


def test_ferplus_with_pixels(tmp_path: Path, put: Put) -> None:
    rows = ferplus_rows()
    put(tmp_path / "fer2013new.csv", "\r\n".join([FERPLUS_HEADER, *rows]))
    put(tmp_path / "fer2013.csv", ferplus_pixels(rows))
    found = read_ferplus(tmp_path, strict=True)
    assert found.labels["label"].tolist() == FERPLUS[:7]
    assert found.report.left_out == {**FERPLUS_LEFT_OUT, "Contempt": 1}
    image = found.images.read(5)
    assert image.shape == (3, 48, 48)
    assert image.unique().tolist() == [5]
    assert found.subset([5]).images.name(0) == f"{tmp_path / 'fer2013.csv'}:7"


@pytest.mark.parametrize(
    ("old", "new", "kind", "message"),
    [
        ("3 3 3", "3 3", "unreadable image", "expected 2304 pixels in 0 to 255, got 2303 words"),
        ("3 3 3", "3 x 3", "unreadable image", "expected 2304 pixels"),
        ("3 3 3", "3 256 3", "unreadable image", "expected 2304 pixels"),
        ("3,Training", "3,PrivateTest", "unreadable line", "usage 'PrivateTest' differs from"),
    ],
)
def test_ferplus_pixel_problems(
    tmp_path: Path, put: Put, old: str, new: str, kind: str, message: str
) -> None:
    rows = ferplus_rows()
    put(tmp_path / "fer2013new.csv", "\n".join([FERPLUS_HEADER, *rows]))
    put(tmp_path / "fer2013.csv", ferplus_pixels(rows).replace(old, new, 1))
    with pytest.raises(ValueError, match=rf"fer2013.csv:5: {kind}: {message}"):
        read_ferplus(tmp_path, strict=True)


def test_ferplus_rows_without_pixels(tmp_path: Path, put: Put) -> None:
    rows = ferplus_rows()
    put(tmp_path / "fer2013new.csv", "\n".join([FERPLUS_HEADER, *rows]))
    put(tmp_path / "fer2013.csv", ferplus_pixels(rows[:7]))
    with pytest.raises(ValueError, match=r"new\.csv:9: missing file: .* has no row for it"):
        read_ferplus(tmp_path, contempt=True, strict=True)


@pytest.mark.parametrize(
    ("votes", "column"),
    [
        ([5, 2, 2, 1, 0, 0, 0, 0, 0, 0], 0),  # 5 of 9 once the single vote is dropped
        ([4, 2, 2, 1, 1, 0, 0, 0, 0, 0], None),  # 4 of 8 is not more than half
        ([1, 1, 1, 1, 1, 1, 1, 1, 1, 1], None),
        ([0, 0, 0, 0, 0, 0, 0, 0, 6, 4], 8),
    ],
)
def test_majority(votes: list[int], column: int | None) -> None:
    assert majority(votes) == column
