"""The four-source batch of SwinFace, from made-up faces or from the real data sets."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from facekernels.data import faces
from facekernels.data.batch_augment import BatchAugment
from facekernels.data.labelled import LabelledImages
from facekernels.systems.common.data_module import StepData
from facekernels.systems.common.mixed import MixedBatches, MixedImages
from facekernels.systems.common.steps import StepLoader
from facekernels.systems.swinface import real_data as real
from facekernels.systems.swinface.targets import full_labels

SOURCES = ("recognition", "age_gender", "attributes", "expression")
"""Parts of a batch, in the published order."""

SETS = ("recognition", "adience", "morph", "imdb", "wiki", "celeba", "affectnet", "rafdb", "clap",
        "ijbc")  # fmt: skip
"""Real data sets that `SwinFaceData` reads."""


class SwinFaceData(StepData):
    """Batches of recognition, age and gender, attribute, and expression images side by side.

    Every row has all labels; those its source does not give are marked as absent (identity,
    attributes and expression -1, age NaN). A source of 0 images per step is left out: only
    recognition is the published first stage.

    Args:
        dataset: faces: made up, with persons of their own in each source; files: real data sets
            under `roots`.
        roots: folder of each real data set (`SETS`): recognition (persons' folders, or a RecordIO
            set), adience, morph, imdb, wiki (age and gender), celeba (attributes), affectnet, rafdb
            (expression), and for evaluation only clap (apparent age) and ijbc (templates, by
            `test`). Each source is repeated, in the published shares of those given, to the length
            of the recognition list, if that is trained on.
        verification: name to ``.bin`` file of a verification set.
        strict: stop at the first missing or damaged file.
        image_size: side of the images, pixels.
        recognition: images per step and process-group of the recognition source.
        age_gender: of the age and gender source.
        attributes: of the attribute source.
        expression: of the expression source.
        identities: persons of the recognition source (made-up faces).
        images_per_identity: images of each (made-up faces).
        source_size: images of each other source (made-up faces).
        eval_size: images of the evaluation split, labelled for everything (made-up faces).
        eval_pairs: pairs of the verification split, half of them of one person (made-up faces).
        settings: distribution of the made-up faces.
        augment: of made-up faces, batch by batch.
        eval_batch_size: images per batch of an evaluation, in each process.
        workers: loader processes.
        seed: of made-up faces, order and augmentation.
    """

    def __init__(
        self,
        dataset: Literal["faces", "files"] = "faces",
        roots: dict[str, str] | None = None,
        verification: dict[str, str] | None = None,
        strict: bool = False,
        image_size: int = 112,
        recognition: int = 32,
        age_gender: int = 32,
        attributes: int = 32,
        expression: int = 32,
        identities: int = 100,
        images_per_identity: int = 20,
        source_size: int = 2000,
        eval_size: int = 500,
        eval_pairs: int = 600,
        settings: faces.Settings | None = None,
        augment: BatchAugment | None = None,
        eval_batch_size: int = 128,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        self.parts = {
            name: size
            for name, size in zip(
                SOURCES, (recognition, age_gender, attributes, expression), strict=True
            )
            if size
        }
        if not self.parts or min(self.parts.values()) < 0:
            raise ValueError(
                "recognition, age_gender, attributes and expression must be at least 0 and one of "
                f"them more, got {recognition}, {age_gender}, {attributes}, {expression}"
            )
        super().__init__(sum(self.parts.values()), eval_batch_size, workers, seed)
        self.roots, self.verification = dict(roots or {}), dict(verification or {})
        unknown = sorted(set(self.roots) - set(SETS))
        if unknown:
            raise ValueError(f"roots must be of {', '.join(SETS)}, got {', '.join(unknown)}")
        self.dataset, self.strict, self.image_size = dataset, strict, image_size
        self.num_identities = identities
        self.images_per_identity, self.source_size = images_per_identity, source_size
        self.eval_size, self.eval_pairs = eval_size, eval_pairs
        self.settings, self.augment = settings or faces.Settings(), augment or BatchAugment()
        self.sources: dict[str, Dataset[dict[str, Tensor]]] = {}
        self.evaluation: dict[str, dict[str, Dataset[dict[str, Tensor]]]] = {}

    def setup(self, stage: str) -> None:
        """Draw or read what `stage` needs: `sources` and validation to fit, else the one split.

        What is there already stays.

        Raises:
            FileNotFoundError: a folder or file of a real data set is not there.
            ValueError: a set that is needed is not given, or malformed.
        """
        if stage == "fit" and not self.sources:
            self.sources = self._read() if self.dataset == "files" else self._draw()
        split = "test" if stage == "test" else "val"
        if split not in self.evaluation:
            made_up = self.dataset == "faces"
            self.evaluation[split] = (
                self._draw_evaluation(split) if made_up else self._read_evaluation(split)
            )
        if stage != "fit" and not self.evaluation[split]:
            raise ValueError(
                "roots must give celeba, rafdb, clap or (to test) ijbc, or verification a .bin "
                f"file, to evaluate on, got roots of {', '.join(self.roots) or 'nothing'}"
            )

    def train_dataloader(self) -> DataLoader[Any]:
        sources = list(self.sources.values())
        batches = [
            self.step_batches(len(source), size, stream=i)  # type: ignore[arg-type]
            for i, (source, size) in enumerate(zip(sources, self.parts.values(), strict=True))
        ]
        data = MixedImages(sources)
        return StepLoader(data, batch_sampler=MixedBatches(batches), **self.loader_options(data))

    def val_dataloader(self) -> list[DataLoader[Any]]:
        return [self.eval_loader(data) for data in self.evaluation["val"].values()]

    def test_dataloader(self) -> list[DataLoader[Any]]:
        return [self.eval_loader(data) for data in self.evaluation["test"].values()]

    def _make(self, count: int, number: int, population: int, **given: Any) -> faces.FaceBatch:
        settings = replace(self.settings, identity_seed=population)
        return faces.make(count, self.image_size, 100 * self.seed + number, settings,
                          uint8=True, **given)  # fmt: skip

    def _source(self, name: str) -> faces.FaceBatch:
        """Persons of the training sources are those of one population per seed."""
        if name == "recognition":
            persons = torch.arange(self.num_identities).repeat_interleave(self.images_per_identity)
            return self._make(len(persons), 0, 2 * self.seed, identities=persons)
        return self._make(self.source_size, SOURCES.index(name), 2 * self.seed)

    def _labelled(self, number: int) -> LabelledImages:
        made = self._make(self.eval_size, number, 2 * self.seed + 1)
        labels = labels_of(made)
        del labels["identity"]
        return LabelledImages(made.images, labels)

    def _pairs(self, number: int) -> LabelledImages:
        """Pairs of persons who are not in the training: even pairs of one, odd pairs of two."""
        pair = torch.arange(self.eval_pairs)
        first = 1000 * number + pair
        second = torch.where(pair % 2 == 0, first, first + 100_000)
        population = 2 * self.seed + 1
        left = self._make(self.eval_pairs, number + 1, population, identities=first)
        right = self._make(self.eval_pairs, number + 2, population, identities=second)
        return LabelledImages(torch.cat([left.images, right.images], 1), {"same": pair % 2 == 0})

    def _draw(self) -> dict[str, Dataset[dict[str, Tensor]]]:
        """The sources of made-up faces."""
        drawn = {name: self._source(name) for name in self.parts}
        return {name: LabelledImages(made.images, labels_of(made, name), self.augment)
                for name, made in drawn.items()}  # fmt: skip

    def _draw_evaluation(self, split: str) -> dict[str, Dataset[dict[str, Tensor]]]:
        number = {"val": 10, "test": 20}[split]
        return {"faces": self._labelled(number), "pairs": self._pairs(number)}

    def _read(self) -> dict[str, Dataset[dict[str, Tensor]]]:
        """The sources of the real data sets that are given."""
        sources: dict[str, Dataset[dict[str, Tensor]]] = {}
        length = None
        if "recognition" in self.parts:
            people = real.recognition(self._root("recognition"), self.strict)
            self.num_identities, length = len(people.classes), len(people)
            sources["recognition"] = real.recognition_images(people, self.image_size)
        for name in self.parts:
            if name != "recognition":
                sources[name] = real.source(
                    name, self.roots, length, self.image_size, self.strict, self.seed
                )
        return sources

    def _read_evaluation(self, split: str) -> dict[str, Dataset[dict[str, Tensor]]]:
        sets = real.evaluation(self.roots, split, self.image_size, self.strict)
        return {**self._verification, **sets}

    @cached_property
    def _verification(self) -> dict[str, Dataset[dict[str, Tensor]]]:
        """The same pairs in both splits, read once."""
        return real.verification(self.verification, self.image_size)

    def _root(self, name: str) -> str:
        if name not in self.roots:
            raise ValueError(f"roots must give the folder of {name}, got {', '.join(self.roots)}")
        return self.roots[name]


def labels_of(made: faces.FaceBatch, source: str | None = None) -> dict[str, Tensor]:
    """The labels that `source` gives, the others marked as absent; all of them for None."""
    given: dict[str | None, dict[str, Tensor]] = {
        "recognition": {"identity": made.identity},
        "age_gender": {"age": made.age, "gender": made.gender},
        "attributes": {"attributes": made.attributes},
        "expression": {"expression": made.expression},
        None: {"identity": made.identity, "age": made.age, "attributes": made.attributes,
               "expression": made.expression},
    }  # fmt: skip
    return full_labels(len(made.identity), **given[source])
