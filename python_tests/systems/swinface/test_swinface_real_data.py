"""SwinFace's sources and evaluation sets from tiny data sets in their published layouts."""

from __future__ import annotations

import io
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("PIL")
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from facekernels.data.image_sources import ImageFiles, UnreadableImage
from facekernels.data.label_files import DataSetWarning
from facekernels.data.labels import ATTRIBUTES, CELEBA_ATTRIBUTES
from facekernels.systems.common.training import trainer
from facekernels.systems.swinface import real_data
from facekernels.systems.swinface.data import SwinFaceData
from python_tests.systems.swinface.test_swinface_training import task

pytestmark = pytest.mark.filterwarnings(  # of Lightning
    "ignore:.*does not have many workers", "ignore::DeprecationWarning"
)


def jpeg(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), value, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def put(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Three persons with four images; two images of each age set; eight of RAF-DB and AffectNet;
    three of CelebA, one per split, with one attribute each; CLAP's three splits.
    """
    root = tmp_path_factory.mktemp("sets")
    for i in range(12):
        put(root / f"recognition/{i // 4}/{i}.jpg", jpeg(20 * i))
    for k, name in enumerate(("adience", "morph", "imdb", "wiki")):
        rows = ["path age gender"]
        for i in range(2):
            put(root / f"{name}/data/{i}.jpg", jpeg(50 * k))
            rows.append(f"{i}.jpg {10 * (k + 1)} {i}.0")
        put(root / name / "label.txt", "\n".join(rows))
    rows = ["3", " ".join(CELEBA_ATTRIBUTES)]
    for i in range(3):
        put(root / f"celeba/img_align_celeba/{i}.jpg", jpeg(80 * i))
        rows.append(f"{i}.jpg " + " ".join("1" if j == i else "-1" for j in range(40)))
    put(root / "celeba/list_attr_celeba.txt", "\n".join(rows))
    put(root / "celeba/list_eval_partition.txt", "0.jpg 0\n1.jpg 1\n2.jpg 2\n")
    rows = []
    for k in range(7):
        for split in ("train", "test"):
            put(root / f"rafdb/Image/aligned/{split}_{k}_aligned.jpg", jpeg(30 * k))
            rows.append(f"{split}_{k}.jpg {k + 1}")
        put(root / f"affectnet/train/{k}/a.jpg", jpeg(30 * k))
    put(root / "rafdb/list_patition_label.txt", "\n".join(rows))
    for split, age in (("train", 20), ("val", 30), ("test", 40)):
        put(root / f"clap/{split}/a.jpg", jpeg(9))
        put(root / f"clap/{split}.csv", f"a.jpg;{age};2.5\n")
    return {path.name: str(path) for path in root.iterdir()}


@pytest.fixture(scope="module")
def data(roots: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> SwinFaceData:
    path = tmp_path_factory.mktemp("bins") / "lfw.bin"
    path.write_bytes(pickle.dumps(([jpeg(10 * i) for i in range(8)], [True, True, False, False])))
    found = SwinFaceData("files", roots, {"lfw": str(path)}, strict=True, image_size=16)
    for stage in ("fit", "validate", "test"):
        found.setup(stage)
    return found


def rows(data: SwinFaceData, name: str) -> list[dict[str, torch.Tensor]]:
    source = data.sources[name]
    return [source[i] for i in range(len(source))]  # type: ignore[arg-type]


def test_recognition(data: SwinFaceData) -> None:
    assert data.num_identities == 3
    found = rows(data, "recognition")
    assert sorted(int(row["identity"]) for row in found) == [0] * 4 + [1] * 4 + [2] * 4
    assert all(row["age"].isnan() and row["expression"] == -1 for row in found)
    assert found[0]["image"].shape == (3, 16, 16)


def test_ages_in_the_published_shares(data: SwinFaceData) -> None:
    found = rows(data, "age_gender")
    ages = [int(row["age"]) for row in found]
    # Of twelve rows three are Adience's (10), three MORPH's (20), the rest IMDB's and WIKI's.
    assert ages[:6] == [10] * 3 + [20] * 3
    assert sorted(ages[6:]) == [30] * 3 + [40] * 3 or sorted(ages[6:]) == [30] * 4 + [40] * 2
    gender = ATTRIBUTES.index("Gender")
    assert [int(row["attributes"][gender]) for row in found[:3]] == [0, 1, 0]
    assert all((row["attributes"] == -1).sum() == 39 for row in found)


def test_attributes_and_expressions(data: SwinFaceData) -> None:
    found = rows(data, "attributes")
    assert len(found) == 12
    assert all(
        [ATTRIBUTES[i] for i in row["attributes"].nonzero()[:, 0]] == ["Five O'Clock Shadow"]
        for row in found
    )
    labels = [int(row["expression"]) for row in rows(data, "expression")]
    assert labels[:6] == [6, 3, 4, 0, 1, 2]  # AffectNet's own order
    assert labels[6:] == [0, 1, 2, 3, 4, 5]  # RAF-DB's


def test_evaluation_sets(data: SwinFaceData) -> None:
    val, test = data.evaluation["val"], data.evaluation["test"]
    pairs = [val["lfw"][i] for i in range(4)]
    assert [bool(row["same"]) for row in pairs] == [True, True, False, False]
    left, right = pairs[1]["image"].unflatten(0, (2, 3)).mean((1, 2, 3)).tolist()
    assert (left, right) == pytest.approx((20 / 127.5 - 1, 30 / 127.5 - 1), abs=0.01)
    assert ATTRIBUTES[int(val["celeba"][0]["attributes"].nonzero()[0])] == "Arched Eyebrows"
    assert ATTRIBUTES[int(test["celeba"][0]["attributes"].nonzero()[0])] == "Attractive"
    assert [int(test["rafdb"][k]["expression"]) for k in range(7)] == list(range(7))
    assert (float(val["clap"][0]["age"]), float(test["clap"][0]["age"])) == (30, 40)
    assert float(test["clap"][0]["age_std"]) == 2.5


def test_sources_need_a_data_set(roots: dict[str, str]) -> None:
    only = {"recognition": roots["recognition"], "celeba": roots["celeba"]}
    data = SwinFaceData("files", only, age_gender=0, expression=0)
    data.setup("fit")
    assert set(data.sources) == {"recognition", "attributes"}
    with pytest.raises(ValueError, match="roots must give a folder for age_gender, one of adience"):
        SwinFaceData("files", only).setup("fit")
    with pytest.raises(ValueError, match=r"^roots must be of recognition, .*, got lfw$"):
        SwinFaceData("files", {"lfw": "lfw"})


def test_each_stage_reads_what_it_needs(
    roots: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To evaluate, the folders of the training need not be there; pairs are read once."""
    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps(([jpeg(1)] * 4, [True, False])))
    calls: list[str] = []
    for name in ("read_verification_bin", "read_rafdb", "read_celeba", "read_clap"):
        read = getattr(real_data, name)

        def counted(*arguments: Any, read: Any = read, name: str = name, **options: Any) -> Any:
            calls.append(" ".join([name, *arguments[1:]]))
            return read(*arguments, **options)

        monkeypatch.setattr(real_data, name, counted)
    elsewhere = dict.fromkeys(("recognition", "adience", "affectnet"), "nowhere")
    data = SwinFaceData("files", roots | elsewhere, {"lfw": str(path)}, strict=True)
    data.setup("test")
    assert sorted(calls) == ["read_celeba test", "read_clap test", "read_rafdb test",
                             "read_verification_bin"]  # fmt: skip
    assert not data.sources
    assert list(data.evaluation) == ["test"]
    calls.clear()
    data.setup("validate")
    data.setup("validate")
    assert sorted(calls) == ["read_celeba val", "read_clap val", "read_rafdb test"]
    assert data.evaluation["val"]["lfw"] is data.evaluation["test"]["lfw"]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        data.setup("fit")


def test_every_set_is_reported(roots: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps(([jpeg(5 * i) for i in range(40)], [True, False] * 10)))
    data = SwinFaceData("files", roots, {"lfw": str(path)}, image_size=32)
    loop = trainer(1, logger=CSVLogger(str(tmp_path)))
    found = loop.test(task(), datamodule=data, verbose=False)
    names = {name.removeprefix("test/") for part in found for name in part}
    assert names == {
        "lfw/verification", "lfw/tar@far=0.001", "lfw/tar@far=0.01", "lfw/tar@far=0.1",
        "celeba/gender", "celeba/attributes", "rafdb/expression", "rafdb/expression_top5",
        "clap/age_mae", "clap/age_within_10", "clap/age_epsilon",
    }  # fmt: skip
    (table,) = tmp_path.rglob("attributes_*.csv")
    assert table.name == "attributes_celeba.csv"
    assert len(table.read_text().splitlines()) == 41


def test_without_recognition_its_folder_is_not_needed(roots: dict[str, str]) -> None:
    only = {name: roots[name] for name in ("adience", "imdb", "affectnet")}
    data = SwinFaceData("files", only, recognition=0, attributes=0, strict=True)
    data.setup("fit")
    # Adience has a third of the list, IMDB two thirds: six are needed to hold Adience's two.
    ages = [int(row["age"]) for row in rows(data, "age_gender")]
    assert ages == [10, 10, 30, 30, 30, 30]
    assert sorted(int(row["expression"]) for row in rows(data, "expression")) == list(range(7))


def test_nothing_to_evaluate_on(roots: dict[str, str]) -> None:
    data = SwinFaceData("files", {"recognition": roots["recognition"]}, age_gender=0,
                        attributes=0, expression=0)  # fmt: skip
    data.setup("fit")
    for stage in ("validate", "test"):
        with pytest.raises(ValueError, match=r"must give celeba, .* got roots of recognition$"):
            data.setup(stage)


@pytest.mark.parametrize("name", ["recognition", "adience", "morph", "imdb", "wiki", "celeba",
                                  "affectnet", "rafdb", "clap", "ijbc"])  # fmt: skip
def test_missing_folders_are_named(roots: dict[str, str], name: str) -> None:
    data = SwinFaceData("files", roots | {name: "nowhere"})
    with pytest.raises(FileNotFoundError, match="nowhere"):
        data.setup("test" if name in ("clap", "ijbc") else "fit")


def test_a_missing_bin_is_named(roots: dict[str, str]) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.bin is not a file"):
        SwinFaceData("files", {}, {"lfw": "nowhere.bin"}).setup("test")


@pytest.fixture
def copied(roots: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The data sets, to be damaged."""
    return {name: str(shutil.copytree(root, tmp_path / name)) for name, root in roots.items()}


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        ("adience/label.txt", "0.jpg 10", "0.jpg 200", "label.txt:2: .*an age of 0 to 120"),
        ("wiki/label.txt", "1.jpg 40 1.0", "1.jpg 40 2.0", "label.txt:3: .*gender 0 or 1"),
        ("celeba/list_attr_celeba.txt", "1.jpg -1 1", "1.jpg -1 7", "celeba.txt:4: .*1 or -1"),
        ("rafdb/list_patition_label.txt", "test_2.jpg 3", "test_2.jpg 9", "txt:6: .*1 to 7"),
        ("clap/val.csv", ";30;", ";-30;", "val.csv:1: .*an age of 0 to 120"),
        ("clap/val.csv", ";2.5", ";0", "val.csv:1: .*a deviation above 0"),
    ],
)
def test_labels_out_of_range_are_named(
    copied: dict[str, str], file: str, old: str, new: str, problem: str
) -> None:
    path = Path(copied["celeba"]).parent / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=f"{problem}, got"):
        SwinFaceData("files", copied, strict=True).setup("fit")
    if not file.startswith(("celeba", "clap")):  # whose list would be empty
        data = SwinFaceData("files", copied)
        with pytest.warns(DataSetWarning, match=r"label out of range"):
            data.setup("fit")


@pytest.mark.parametrize(
    ("file", "place"),
    [
        ("recognition/1/5.jpg", "recognition"),
        ("adience/data/0.jpg", "age_gender"),
        ("celeba/img_align_celeba/0.jpg", "attributes"),
        ("affectnet/train/0/a.jpg", "expression"),
        ("clap/val/a.jpg", "clap"),
        ("rafdb/Image/aligned/test_0_aligned.jpg", "rafdb"),
    ],
)
def test_damaged_images_are_named(copied: dict[str, str], file: str, place: str) -> None:
    (Path(copied["celeba"]).parent / file).write_bytes(b"no image")
    data = SwinFaceData("files", copied, image_size=16)
    data.setup("fit")
    found = data.sources.get(place, data.evaluation["val"].get(place))
    assert found is not None
    with pytest.raises(UnreadableImage, match=f"{file} cannot be read as an image"):
        [found[i] for i in range(len(found))]  # type: ignore[arg-type]


def test_a_damaged_image_of_a_pair_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps(([jpeg(1), jpeg(2), jpeg(3), b"no image"], [True, False])))
    data = SwinFaceData("files", {}, {"lfw": str(path)}, image_size=16)
    data.setup("test")
    pairs = data.evaluation["test"]["lfw"]
    assert pairs[0]["image"].shape == (6, 16, 16)
    with pytest.raises(UnreadableImage, match=r"lfw\.bin: image 3 cannot be read as an image"):
        pairs[1]


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1"])
def test_images_of_other_channels_become_rgb(copied: dict[str, str], mode: str) -> None:
    suffix = "TIFF" if mode == "CMYK" else "PNG"
    image = Image.fromarray(np.full((16, 16, 3), 255, np.uint8)).convert(mode)
    image.save(Path(copied["recognition"]) / "0/0.jpg", suffix)
    data = SwinFaceData("files", copied, image_size=16)
    data.setup("fit")
    torch.testing.assert_close(data.sources["recognition"][0]["image"], torch.ones(3, 16, 16))


@pytest.mark.parametrize("form", ["PNG", "PPM", "TIFF"])
def test_16_bits_of_grey_become_8(tmp_path: Path, form: str) -> None:
    wide = np.array([[0, 128, 129], [32767, 65406, 65535]], np.uint16)
    Image.fromarray(wide).save(tmp_path / "wide", form)
    found = ImageFiles([str(tmp_path / "wide")]).read(0)
    assert found.tolist() == [[[0, 0, 1], [127, 254, 255]]] * 3


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_no_known_range_are_refused(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (4, 4), 200).save(tmp_path / "raw.tiff")
    with pytest.raises(UnreadableImage, match=rf"raw\.tiff cannot .* mode {mode} have no known"):
        ImageFiles([str(tmp_path / "raw.tiff")]).read(0)
