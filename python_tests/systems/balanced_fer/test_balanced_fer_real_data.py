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
from facekernels.systems.balanced_fer.data import ExpressionData, _thinned
from facekernels.systems.balanced_fer.task import ExpressionTask
from facekernels.systems.common.schedule import Optimization
from facekernels.systems.common.training import trainer

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)


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
    assert 0 <= found["test/accuracy"] <= 1
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
