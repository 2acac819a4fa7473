"""The protocols by hand, and IJB-C from tiny folders in its published layout."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("PIL")
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch import Tensor

from facekernels.data.labels import ATTRIBUTES
from facekernels.metrics import TemplatePairs, template_verification
from facekernels.systems.common.training import trainer
from facekernels.systems.swinface import SwinFace
from facekernels.systems.swinface.data import SwinFaceData
from facekernels.systems.swinface.evaluate import attribute_accuracies, predictions, scores
from facekernels.systems.swinface.ijbc import TemplateFaces, align
from python_tests.systems.swinface.test_swinface_training import SMALL, data, task

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

PLACES = torch.tensor(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655],
     [70.7299, 92.2041]], dtype=torch.float64,
)  # fmt: skip


def logits(answers: list[int], classes: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(answers), classes).float()


def test_ages_by_hand() -> None:
    """Off by 3, 0 and 12 years; the fourth face has no age."""
    found = {
        "Age": torch.tensor([[33.0], [20.0], [52.0], [1.0]]),
        "age": torch.tensor([30.0, 20.0, 40.0, torch.nan]),
    }
    assert scores(found) == {"age_mae": pytest.approx(5), "age_within_10": pytest.approx(2 / 3)}
    found["age_std"] = torch.tensor([3.0, 1.0, 6.0, 1.0])
    expected = 1 - (math.exp(-0.5) + 1 + math.exp(-2)) / 3
    assert scores(found)["age_epsilon"] == pytest.approx(expected)


def test_attributes_by_hand() -> None:
    """Gender is known of three faces, Bald of two, no other; three of the five are right."""
    labels = torch.full((4, 40), -1)
    labels[:3, ATTRIBUTES.index("Gender")] = torch.tensor([1, 0, 1])
    labels[2:, ATTRIBUTES.index("Bald")] = torch.tensor([0, 1])
    found = {"Gender": logits([1, 1, 1, 1], 2), "Bald": logits([1, 1, 1, 1], 2),
             "Young": logits([0, 0, 0, 0], 2), "attributes": labels}  # fmt: skip
    assert attribute_accuracies(found) == {"Gender": pytest.approx(2 / 3), "Bald": 0.5}
    assert scores(found) == {
        "gender": pytest.approx(2 / 3),
        "attributes": pytest.approx((2 / 3 + 0.5) / 2),
    }


def test_expressions_by_hand() -> None:
    """Ranks of the true class: 0, 2, 5; the fourth face has no expression."""
    falling = torch.arange(7, 0, -1.0).expand(4, 7)
    found = {"Expression": falling, "expression": torch.tensor([0, 2, 5, -1])}
    third = pytest.approx(1 / 3)
    assert scores(found) == {"expression": third, "expression_top5": pytest.approx(2 / 3)}


def test_attributes_are_written_beside_the_logs(tmp_path: Path) -> None:
    module = task({"tasks": ["Gender", "Smiling"]})
    loop = trainer(1, logger=CSVLogger(str(tmp_path)))
    found, _ = loop.test(module, datamodule=data(), verbose=False)
    (path,) = tmp_path.rglob("attributes_*.csv")
    assert path.name == "attributes_faces.csv"
    rows = {row["attribute"]: float(row["accuracy"]) for row in csv.DictReader(path.open())}
    assert list(rows) == ["Gender", "Smiling"]
    assert sum(rows.values()) / 2 == pytest.approx(found["test/faces/attributes"], abs=1e-5)


def test_a_face_in_its_place_stays() -> None:
    face = torch.randint(256, (3, 112, 112), dtype=torch.uint8)
    assert torch.equal(align(face, PLACES, 112), face)
    frame = torch.full((3, 150, 140), 9, dtype=torch.uint8)
    frame[:, 30:142, 20:132] = face
    assert torch.equal(align(frame, PLACES + torch.tensor([20, 30]), 112), face)
    # A quarter turn: the point (x, y) is now at (111 - y, x).
    turned = torch.stack([111 - PLACES[:, 1], PLACES[:, 0]], 1)
    assert torch.equal(align(face.rot90(-1, (1, 2)), turned, 112), face)
    moved = align(face, PLACES + 200, 112)
    assert not moved.any()  # nothing but what is outside of the image


def test_the_similarity_is_that_of_scikit_image() -> None:
    """On a slanted plane, which bilinear sampling keeps; landmarks off their places."""
    transform = pytest.importorskip("skimage.transform")
    torch.manual_seed(2)
    points = PLACES * 1.5 + torch.tensor([40.0, 20.0]) + 4 * torch.randn(5, 2)
    plane = torch.arange(256).float()[:, None] * 0.3 + torch.arange(256).float() * 0.6
    found = align(plane.to(torch.uint8).expand(3, -1, -1), points, 112)
    similarity = transform.SimilarityTransform.from_estimate(points.numpy(), PLACES.numpy())
    x, y = np.meshgrid(np.arange(112), np.arange(112))
    places = similarity.inverse(np.stack([x.ravel(), y.ravel()], 1)).reshape(112, 112, 2)
    expected = torch.from_numpy(places[..., 1] * 0.3 + places[..., 0] * 0.6)
    # The plane's own values are rounded down, the result to the nearest.
    assert float((found[0] - expected + 0.5).abs().max()) < 1.05


def test_smaller_crops_hold_the_same_face() -> None:
    face = torch.rand(3, 8, 8).mul(255)[None]
    face = torch.nn.functional.interpolate(face, (112, 112), mode="bilinear")[0]
    small = align(face.to(torch.uint8), PLACES, 56).float()
    expected = torch.nn.functional.avg_pool2d(face, 2)
    assert float((small - expected).abs().mean()) < 1


@pytest.fixture
def ijbc(tmp_path: Path) -> Path:
    """Six images of four templates; template 1 has a photograph and two frames of a video."""
    pixels = np.random.default_rng(0)
    (tmp_path / "loose_crop").mkdir()
    (tmp_path / "meta").mkdir()
    names, media = [], ["1 5", "1 6", "1 6", "2 7", "3 8", "4 9"]
    for i in range(6):
        image = pixels.integers(0, 256, (120, 118, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / f"loose_crop/{i + 1}.png")
        points = " ".join(f"{v:.3f}" for v in (PLACES + i).flatten().tolist())
        names.append(f"{i + 1}.png {points} 0.{9 - i}")
    put = (tmp_path / "meta").joinpath
    put("ijbc_name_5pts_score.txt").write_text("\n".join(names))
    put("ijbc_face_tid_mid.txt").write_text(
        "\n".join(f"{i + 1}.png {ids}" for i, ids in enumerate(media))
    )
    put("ijbc_template_pair_label.txt").write_text("1 2 1\n1 3 0\n2 4 0\n3 4 1\n")
    return tmp_path


def test_ijbc_is_tested(ijbc: Path) -> None:
    module = task({"tasks": []})
    module.network.eval()
    images = SwinFaceData("files", {"ijbc": str(ijbc)}, image_size=32, eval_batch_size=4)
    (found,) = trainer(1).test(module, datamodule=images, verbose=False)
    fars = ("1e-06", "1e-05", "0.0001", "0.001", "0.01", "0.1")
    assert list(found) == [f"test/ijbc/tar@far={far}" for far in fars]

    faces = images.evaluation["test"]["ijbc"]
    items = [faces[i] for i in range(6)]
    crops = torch.stack([item["image"] for item in items])
    assert crops.shape == (6, 3, 32, 32)
    with torch.inference_mode():
        both = module.network.backbone(crops) + module.network.backbone(crops.flip(-1))
    detector = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    templates, media = torch.tensor([1, 1, 1, 2, 3, 4]), torch.tensor([5, 6, 6, 7, 8, 9])
    pairs = TemplatePairs(torch.tensor([1, 1, 2, 3]), torch.tensor([2, 3, 4, 4]),
                          torch.tensor([True, False, False, True]))  # fmt: skip
    features = both * detector[:, None]
    assert list(found.values()) == pytest.approx(
        template_verification(features, templates, media, pairs)
    )
    batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
    given = predictions(module.network, batch)
    torch.testing.assert_close(given["feature"], features, atol=1e-6, rtol=1e-4)
    assert given["template"].tolist() == templates.tolist()
    assert given["medium"].tolist() == media.tolist()


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("ijbc_name_5pts_score.txt", "\n6.png 43.295", "\n6.png", "must hold numbers .* row 6"),
        ("ijbc_name_5pts_score.txt", "0.8", "nan", "image 2 must have finite landmarks and score"),
        ("ijbc_face_tid_mid.txt", "\n6.png 4 9", "", "as many lines as .*, 6, got 5"),
        ("ijbc_template_pair_label.txt", "3 4 1", "3 4 2", "pair 4 must have the label 0 or 1"),
    ],
)
def test_malformed_lists_of_ijbc(ijbc: Path, file: str, old: str, new: str, message: str) -> None:
    edit(ijbc / "meta" / file, old, new)
    with pytest.raises(ValueError, match=message):
        TemplateFaces(str(ijbc), 32)


def test_missing_parts_of_ijbc(ijbc: Path) -> None:
    (ijbc / "loose_crop/2.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"loose_crop/2\.png cannot be read as an image"):
        TemplateFaces(str(ijbc), 32)[1]
    with pytest.raises(ValueError, match="landmarks must be different points, got"):
        align(torch.zeros(3, 9, 9, dtype=torch.uint8), torch.ones(5, 2).double(), 32)
    (ijbc / "meta/ijbc_face_tid_mid.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"ijbc_face_tid_mid\.txt is not a file"):
        TemplateFaces(str(ijbc), 32)
    for name in ("meta", "loose_crop"):
        (ijbc / name).rename(ijbc / "elsewhere")
        with pytest.raises(FileNotFoundError, match=f"none of {name} is there"):
            TemplateFaces(str(ijbc), 32)
        (ijbc / "elsewhere").rename(ijbc / name)
    images: dict[str, Any] = {"image_size": 32, "dataset": "files", "roots": {"ijbc": str(ijbc)}}
    with pytest.raises(ValueError, match=r"roots must give celeba, .* got roots of ijbc$"):
        trainer(1).validate(task({"tasks": []}), datamodule=SwinFaceData(**images))


def test_a_network_without_tasks_answers_pairs_only() -> None:
    network = SwinFace(**SMALL, tasks=[]).eval()
    images = torch.randn(2, 3, 32, 32)
    found = predictions(network, {"image": images, "age": torch.tensor([3.0, 4.0])})
    assert list(found) == ["age"]
    assert scores(found) == {}
