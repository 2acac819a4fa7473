"""Training from image files: the splits of the readers, thinning, and a whole loop."""

from __future__ import annotations

from pathlib import Path

import lightning
import pytest
import torch

pytest.importorskip("PIL")
from PIL import Image

from facekernels.data import faces
from facekernels.data.image_list import ImageList
from facekernels.data.image_sources import ImageFiles
from facekernels.systems.balanced_fer import ExpressionNet, predict
from facekernels.systems.balanced_fer.data import ExpressionData, _thinned
from facekernels.systems.balanced_fer.task import ExpressionTask
from facekernels.systems.common.schedule import Optimization
from facekernels.systems.common.training import trainer

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)


SMALL = {"layers": (1, 1, 1, 1), "width": 8, "stem": "small"}


@pytest.fixture(scope="module")
def rafdb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RAF-DB's layout with made-up faces: 9 of each class, 2 in the test split."""
    root = tmp_path_factory.mktemp("rafdb")
    (root / "Image/aligned").mkdir(parents=True)
    lines = []
    for split, per_class, seed in (("train", 9, 0), ("test", 2, 1)):
        labels = torch.arange(7).repeat(per_class)
        made = faces.make(len(labels), 32, seed, expressions=labels, uint8=True)
        for i, image in enumerate(made.images):
            name = f"{split}_{i:05d}"
            path = root / f"Image/aligned/{name}_aligned.jpg"
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
            lines.append(f"{name}.jpg {int(labels[i]) + 1}\n")
    (root / "list_patition_label.txt").write_text("".join(lines))
    return root


def test_splits_and_augmentation(rafdb: Path) -> None:
    data = ExpressionData("rafdb", str(rafdb), image_size=24, strict=True)
    data.setup("fit")
    assert data.class_counts.tolist() == [9] * 7
    assert (len(data.train), len(data.val), len(data.test)) == (63, 14, 14)
    plain = data.train[5]
    assert plain["image"].shape == (3, 24, 24)
    assert plain["image"].dtype is torch.float32
    assert plain["label"] == 5
    drawn = [data.train[(5, key)]["image"] for key in range(8)]
    assert torch.equal(drawn[0], data.train[(5, 0)]["image"])
    assert sum(not torch.equal(image, plain["image"]) for image in drawn) >= 4


def test_a_training_from_files(rafdb: Path, tmp_path: Path) -> None:
    lightning.seed_everything(0, verbose=False)
    data = ExpressionData("rafdb", str(rafdb), image_size=32, imbalance=3.0, sampler="inverse",
                          batch_size=16, workers=0)  # fmt: skip
    task = ExpressionTask(
        image_size=32,
        backbone="resnet", consistency=1.0, optimization=Optimization(lr=3e-3),
        backbone_options={"layers": [1, 1, 1, 1], "width": 8, "stem": "small"},
    )  # fmt: skip
    loop = trainer(4, logger=lightning.pytorch.loggers.CSVLogger(str(tmp_path)))
    loop.fit(task, data)
    (found,) = loop.test(task, datamodule=data, verbose=False)
    right = found["test/accuracy"] * 14  # of 14 test images, two of each class
    assert right == pytest.approx(round(right), abs=1e-5)
    assert found["test/mean_accuracy"] == pytest.approx(found["test/accuracy"])
    assert len(list(tmp_path.rglob("confusion.png"))) == 1
    assert data.class_counts.max() == 3 * data.class_counts.min() == 9


def image_list(counts: list[int]) -> ImageList:
    labels = torch.cat([torch.full((n,), k) for k, n in enumerate(counts)])
    names = [str(i) for i in range(len(labels))]
    return ImageList(ImageFiles(names), {"label": labels}, tuple("abcdefg"[: len(counts)]))


def test_thinning_keeps_all_it_can() -> None:
    """The second class decides: 40 / 10 ** -0.5 is 126.5 of the largest."""
    images = image_list([40, 20, 300])
    rows = _thinned(images, 10.0, seed=0)
    assert images.subset(rows).class_counts.tolist() == [40, 13, 126]
    assert len(rows.unique()) == len(rows)
    assert torch.equal(_thinned(images, 10.0, seed=0), rows)
    assert not torch.equal(_thinned(images, 10.0, seed=1), rows)
    balanced = image_list([5, 7, 9])
    assert balanced.subset(_thinned(balanced, 1.0, seed=0)).class_counts.tolist() == [5, 5, 5]


def test_contempt_is_an_eighth_class(tmp_path: Path) -> None:
    """AffectNet by class folders; the names reach the predictions of a checkpoint."""
    made = faces.make(16, 32, 0, uint8=True)
    for split in ("train", "val"):
        for i, image in enumerate(made.images):
            folder = tmp_path / split / str(i % 8)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    options = {"root": str(tmp_path), "image_size": 32, "batch_size": 8}
    data = ExpressionData("affectnet", contempt=True, augmentation="erase", **options)
    data.setup("fit")
    assert data.class_counts.tolist() == [2] * 8
    assert data.class_names[7] == "Contempt"
    without = ExpressionData("affectnet", **options)
    without.setup("fit")
    assert without.class_counts.tolist() == [2] * 7

    task = ExpressionTask("resnet", SMALL, image_size=32, num_classes=8)
    loop = trainer(1, enable_checkpointing=True, default_root_dir=tmp_path)
    loop.fit(task, data)
    path = tmp_path / "last.ckpt"
    loop.save_checkpoint(path)
    (found,) = predict(ExpressionNet.from_checkpoint(path), made.images[:1])
    assert list(found.probabilities)[7] == "Contempt"


def test_contempt_is_not_in_every_set(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="contempt is a class of affectnet and ferplus, got rafdb"):
        ExpressionData("rafdb", str(tmp_path), contempt=True)


def test_digits() -> None:
    pytest.importorskip("sklearn")
    data = ExpressionData("digits", image_size=16, imbalance=10.0, test_per_class=20, seed=3)
    data.setup("fit")
    counts = data.class_counts.tolist()
    assert counts[9] == counts[0] // 10
    assert counts == sorted(counts, reverse=True)
    assert torch.bincount(data.test.labels["label"]).tolist() == [20] * 10
    assert data.train.images.shape[1:] == (3, 16, 16)
    # No image is in two splits.
    seen = torch.cat([data.train.images, data.val.images, data.test.images]).flatten(1)
    assert len(seen.unique(dim=0)) >= len(seen) - 2
    with pytest.raises(ValueError, match="test_per_class must leave digits for training"):
        ExpressionData("digits", image_size=16, test_per_class=100).setup("fit")
