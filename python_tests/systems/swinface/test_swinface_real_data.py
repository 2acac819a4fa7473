"""SwinFace's sources and evaluation sets from tiny data sets in their published layouts."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("PIL")
from PIL import Image

from facekernels.data.labels import ATTRIBUTES, CELEBA_ATTRIBUTES
from facekernels.systems.swinface.data import SwinFaceData


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
    found.setup("fit")
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
