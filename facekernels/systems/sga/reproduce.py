"""SGA against SPGD at equal budgets on real images, over seeds and surrogates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor, nn

from facekernels.metrics.intervals import Interval, t_interval
from facekernels.systems.common.commit import commit
from facekernels.systems.sga.data import SETS, Split, split
from facekernels.systems.sga.deepfool import fit_deepfool
from facekernels.systems.sga.eager import fit_eager
from facekernels.systems.sga.evaluate import fooling_ratio, predict, to_unit
from facekernels.systems.sga.models import ARCHITECTURES, train_classifier

EPSILON: dict[str, float] = {"digits": 40 / 255, "faces": 20 / 255}
"""Bounds at which, with seed 0, perturbations fool some images and not all; for every method."""

METHODS: dict[str, str] = {
    "random": "random signs",
    "deepfool": "DeepFool-UAP",
    "spgd_updates": "SPGD, as many outer updates",
    "spgd": "SPGD",
    "spgd_small": "SPGD, small batches",
    "sga": "SGA",
}
"""Names of the methods; all but `random` and `spgd_updates` spend the same image gradients."""

_NOISE_DRAWS = 5


@dataclass(frozen=True)
class Settings:
    """What a run depends on."""

    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    sets: tuple[str, ...] = SETS
    epochs: int = 5
    """Of SGA. SPGD of equal gradients runs k times as many."""
    k: int = 4
    small_batch: int = 10
    large_batches: int = 4
    """Outer updates per epoch: the large batch is the training set divided by this."""
    training_steps: int = 200
    """Of the surrogates."""


class Row(NamedTuple):
    """One perturbation judged by one model."""

    dataset: str
    seed: int
    method: str
    source: str
    target: str
    fooling_ratio: float
    gradients: int
    updates: int


@dataclass(frozen=True)
class Run:
    """All that was measured."""

    settings: Settings
    rows: list[Row]
    accuracy: dict[str, dict[str, list[float]]]
    """Set, architecture: share of held-out images classified right, for each seed."""

    def per_seed(self, dataset: str, method: str, kind: str) -> list[float]:
        """Fooling ratios averaged over sources (and targets), one per seed.

        kind is "white-box" (source and target are the same model) or "transfer".
        """
        same = _is_white_box(kind)
        return [
            fmean(
                r.fooling_ratio for r in self.rows
                if (r.dataset, r.method, r.seed) == (dataset, method, seed)
                and (r.source == r.target) is same
            )
            for seed in self.settings.seeds
        ]  # fmt: skip

    def interval(self, dataset: str, method: str, kind: str) -> Interval:
        """Of the fooling ratio."""
        return t_interval(self.per_seed(dataset, method, kind))

    def difference(self, dataset: str, method: str, kind: str) -> Interval:
        """SGA minus `method`, paired by seed: the same surrogates, images and split."""
        pairs = zip(self.per_seed(dataset, "sga", kind), self.per_seed(dataset, method, kind),
                    strict=True)  # fmt: skip
        return t_interval([a - b for a, b in pairs])

    def verdict(self) -> list[str]:
        """One sentence for each set and kind, on SGA against SPGD of equal gradients."""
        return [
            f"{dataset}, {kind}: {_compare(self.difference(dataset, 'spgd', kind))}"
            for dataset in self.settings.sets
            for kind in KINDS
        ]

    def to_json(self) -> dict[str, object]:
        """Everything, for json.dump; intervals of one seed are null."""
        return {
            "commit": commit(),
            "torch": torch.__version__,
            "settings": asdict(self.settings),
            "epsilon": {name: EPSILON[name] for name in self.settings.sets},
            "interval": "mean over sources per seed; Student's t over seeds, 95 %",
            "verdict": self.verdict(),
            "summary": [
                {"dataset": d, "kind": k, "method": m,
                 "fooling_ratio": _finite(self.interval(d, m, k)),
                 "sga_minus_this": _finite(self.difference(d, m, k))}
                for d in self.settings.sets for k in KINDS for m in METHODS
            ],
            "accuracy": self.accuracy,
            "rows": [row._asdict() for row in self.rows],
        }  # fmt: skip


KINDS: tuple[str, str] = ("white-box", "transfer")


def run(settings: Settings, progress: Callable[[str], None] = lambda _: None) -> Run:
    """Train surrogates and perturbations for every set and seed, judge them on held-out images.

    `progress` is told of each perturbation and surrogate, `steps(settings)` times in all. One
    thread is used, since layers this small gain nothing from more.
    """
    rows: list[Row] = []
    accuracy: dict[str, dict[str, list[float]]] = {
        name: {a: [] for a in ARCHITECTURES} for name in settings.sets
    }
    with _one_thread():
        for name in settings.sets:
            for seed in settings.seeds:
                data = split(name, seed)
                models = {}
                for a in ARCHITECTURES:
                    progress(f"{name}, seed {seed}: training {a}")
                    models[a] = train_classifier(
                        a,
                        to_unit(data.train),
                        data.labels,
                        data.classes,
                        steps=settings.training_steps,
                        seed=seed,
                    )
                    right = predict(models[a], data.held_out) == data.held_out_labels
                    accuracy[name][a].append(float(right.double().mean()))
                rows += _judge(name, seed, data, models, settings, progress)
    return Run(settings, rows, accuracy)


def steps(settings: Settings) -> int:
    """How often `run` reports progress."""
    each = len(ARCHITECTURES) * (1 + len(METHODS))
    return len(settings.sets) * len(settings.seeds) * each


def _judge(
    name: str,
    seed: int,
    data: Split,
    models: dict[str, nn.Module],
    settings: Settings,
    progress: Callable[[str], None],
) -> Iterator[Row]:
    for source, model in models.items():
        for method in METHODS:
            progress(f"{name}, seed {seed}: {METHODS[method]} on {source}")
            deltas, gradients, updates = _fit(method, name, model, data.train, settings, seed)
            for target, judge in models.items():
                ratio = fmean(fooling_ratio(judge, data.held_out, d) for d in deltas)
                yield Row(name, seed, method, source, target, ratio, gradients, updates)


def _fit(
    method: str, name: str, model: nn.Module, images: Tensor, settings: Settings, seed: int
) -> tuple[list[Tensor], int, int]:
    """Perturbations (several only for noise), image gradients, sign steps."""
    epsilon, k, large = EPSILON[name], settings.k, len(images) // settings.large_batches
    if method == "random":
        generator = torch.Generator().manual_seed(seed)
        shape = (_NOISE_DRAWS, *images.shape[1:])
        return list(epsilon * torch.randn(shape, generator=generator).sign()), 0, 0
    if method == "deepfool":
        budget = k * settings.epochs * len(images)
        found = fit_deepfool(model, images, gradients=budget, epsilon=epsilon, seed=seed)
        return [found.delta], found.gradients, 0
    fit = fit_eager(
        model,
        images,
        method="sga" if method == "sga" else "spgd",
        epochs=settings.epochs * (k if method in ("spgd", "spgd_small") else 1),
        large_batch=settings.small_batch if method == "spgd_small" else large,
        small_batch=settings.small_batch,
        k=k,
        epsilon=epsilon,
        seed=seed,
    )
    return [fit.delta], fit.gradients, fit.updates


def _compare(difference: Interval) -> str:
    points = f"{100 * difference.mean:+.1f} points"
    if math.isnan(difference.low):
        return f"SGA - SPGD is {points} with one seed, which decides nothing"
    bounds = f"95 % interval {100 * difference.low:+.1f} to {100 * difference.high:+.1f}"
    if difference.low > 0:
        return f"SGA fools more than SPGD ({points}, {bounds})"
    if difference.high < 0:
        return f"SGA fools less than SPGD ({points}, {bounds})"
    return f"no difference shown between SGA and SPGD ({points}, {bounds})"


def _is_white_box(kind: str) -> bool:
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    return kind == "white-box"


def _finite(interval: Interval) -> list[float | None]:
    return [None if math.isnan(v) else v for v in interval]


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
