"""Every clustering method on the same faces, with what is tuned tuned on other identities."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from facekernels.data.embedded import digits
from facekernels.metrics import bcubed_f, nmi, pairwise_f
from facekernels.ops import KNNGraph, knn_graph
from facekernels.systems.ain.linkage.clusterer import FaceClusterer
from facekernels.systems.ain.linkage.peers import (
    GCNE,
    GCNV,
    ChineseWhispers,
    Infomap,
    NeighborDBSCAN,
    ThresholdComponents,
)
from facekernels.systems.ain.linkage.synthetic import synthetic_identities
from facekernels.systems.common.memory import peak_mb

METHODS = {
    "threshold": "threshold components",
    "oracle": "threshold components, best on the test set",
    "dbscan": "DBSCAN on the graph",
    "whispers": "Chinese whispers",
    "infomap": "Infomap",
    "gcn_v": "GCN-V, rotated steps",
    "gcn_e": "GCN-V and GCN-E, rotated steps",
    "linkage": "linkage network, as published",
    "rotated": "linkage network, rotated batches",
}
_THRESHOLDS = [t / 40 for t in range(4, 39)]


class Faces(NamedTuple):
    """Features and identities."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Task:
    """A data set with the settings of the graph."""

    label: str
    make: Callable[[int], tuple[Faces, Faces]]
    """seed -> known identities, and others."""
    k: int
    k_at_hop: tuple[int, int]
    max_size: int
    epochs: int = 4
    channels: tuple[int, int, int, int] = (512, 512, 256, 256)
    gcn_v_steps: int = 1500
    gcn_e_epochs: int = 20


def _synthetic(
    identities: int, per_identity: int, noise: tuple[float, float], seed: int
) -> tuple[Faces, Faces]:
    return (
        Faces(*synthetic_identities(identities, per_identity, noise=noise, seed=seed)),
        Faces(*synthetic_identities(identities, per_identity, noise=noise, seed=seed + 1000)),
    )


def _digits(seed: int) -> tuple[Faces, Faces]:
    """Half of the digits are known; which ones depends on the seed. Pixels are the features."""
    data = digits()
    x = F.normalize(data.images.flatten(1).float() - data.images.float().mean())
    order = torch.randperm(10, generator=torch.Generator().manual_seed(seed))
    known = torch.isin(data.labels, order[:5])
    return Faces(x[known], data.labels[known]), Faces(x[~known], data.labels[~known])


TASKS = {
    "synthetic": Task(
        "100 identities of 20 images, 64-d, sigma 0.7 to 1.5",
        lambda seed: _synthetic(100, 20, (0.7, 1.5), seed), 40, (40, 5), 30,
    ),
    "hard": Task(
        "100 identities of 30 images, 64-d, sigma 0.8 to 2.4",
        lambda seed: _synthetic(100, 30, (0.8, 2.4), seed), 40, (40, 5), 45,
    ),
    "digits": Task("scikit-learn's digits, five known, five others", _digits, 40, (40, 5), 250),
    "quick": Task(
        "60 identities of 10 images, 64-d, sigma 0.6 to 1.3 (a check, not a result)",
        lambda seed: _synthetic(60, 10, (0.6, 1.3), seed), 15, (15, 4), 12, 3, (64, 64, 32, 32),
        50, 2,
    ),
}  # fmt: skip


class Row(NamedTuple):
    """One method on one task with one seed."""

    task: str
    method: str
    seed: int
    pairwise: float
    bcubed: float
    nmi: float
    clusters: int
    seconds: float
    """Clustering, given the graph; for networks with the scores."""
    training_seconds: float
    peak_mb: float
    """Resident memory of the process at its peak, training included; 0 where unknown."""
    setting: str


@dataclass
class Comparison:
    """All rows, and what they say."""

    rows: list[Row] = field(default_factory=list)

    def of(self, task: str, method: str) -> list[Row]:
        """The rows of a method, by seed."""
        return [r for r in self.rows if (r.task, r.method) == (task, method)]

    def interval(self, task: str, method: str, what: str = "pairwise") -> tuple[float, float]:
        """Mean over the seeds and half of its 95 % t-interval (0 for one seed)."""
        return _interval([getattr(r, what) for r in self.of(task, method)])

    def verdict(self) -> list[str]:
        """Differences of pairwise F by seed, in words."""
        sentences = []
        for task in dict.fromkeys(r.task for r in self.rows):
            base = [r.pairwise for r in self.of(task, "oracle")]
            for method in ("linkage", "rotated"):
                own = [r.pairwise for r in self.of(task, method)]
                gain, half = _interval([a - b for a, b in zip(own, base, strict=True)])
                word = "is not shown to differ from"
                if len(own) > 1 and abs(gain) > half:
                    word = "beats" if gain > 0 else "loses to"
                sentences.append(
                    f"{task}: {METHODS[method]} {word} the best threshold "
                    f"(pairwise F {gain:+.3f} ± {half:.3f})"
                )
            means = {m: self.interval(task, m)[0] for m in METHODS if m != "oracle"}
            best = max(means, key=lambda m: means[m])
            sentences.append(f"{task}: best is {METHODS[best]} with F {means[best]:.3f}")
        return sentences


def run(
    tasks: Sequence[str], seeds: Sequence[int], progress: Callable[[str], None] = lambda text: None
) -> Comparison:
    """All methods on the named `TASKS`."""
    result = Comparison()
    for name in tasks:
        for seed in seeds:
            known, faces = TASKS[name].make(seed)
            graphs = tuple(knn_graph(f.x, TASKS[name].k) for f in (known, faces))
            for method in METHODS:
                progress(f"{name}, seed {seed}: {METHODS[method]}")
                result.rows.append(_measure(name, method, seed, known, faces, *graphs))
    return result


def steps(tasks: Sequence[str], seeds: Sequence[int]) -> int:
    """How often `run` tells its progress."""
    return len(tasks) * len(seeds) * len(METHODS)


def _measure(
    name: str, method: str, seed: int, known: Faces, faces: Faces, graph: KNNGraph, other: KNNGraph
) -> Row:
    task = TASKS[name]
    _reset_peak()
    start = time.perf_counter()
    cluster, setting = _prepared(task, method, seed, known, faces, graph, other)
    trained = time.perf_counter()
    labels = cluster()
    end = time.perf_counter()
    return Row(
        name, method, seed, pairwise_f(faces.y, labels).f, bcubed_f(faces.y, labels).f,
        nmi(faces.y, labels), int(labels.max()) + 1, end - trained, trained - start, peak_mb(),
        setting,
    )  # fmt: skip


def _prepared(
    task: Task,
    method: str,
    seed: int,
    known: Faces,
    faces: Faces,
    graph: KNNGraph,
    other: KNNGraph,
) -> tuple[Callable[[], NDArray[np.int64]], str]:
    """Whatever has to be learned or tuned, and then a function that clusters the faces."""
    if method in ("linkage", "rotated"):
        model = FaceClusterer(
            task.k, task.k_at_hop, task.k_at_hop[1], max_size=task.max_size, epochs=task.epochs,
            channels=task.channels, rotate=method == "rotated", seed=seed,
        ).fit(known.x.numpy(), known.y.numpy())  # fmt: skip
        return (lambda: model.predict(faces.x.numpy())), f"max_size {task.max_size}"
    if method in ("gcn_v", "gcn_e"):
        base = GCNV(hidden=128, steps=task.gcn_v_steps, lr=0.3, rotate=True, seed=seed)
        network: GCNV | GCNE = base
        if method == "gcn_e":
            network = GCNE(
                base, channels=task.channels, epochs=task.gcn_e_epochs, rotate=True, seed=seed
            )
        network.fit(known.x, *graph, known.y)
        tau = max(
            _THRESHOLDS, key=lambda t: _f(known, replace(network, tau=t).cluster(known.x, *graph))
        )
        best_cut = replace(network, tau=tau)
        return (lambda: best_cut.cluster(faces.x, *other)), f"tau {tau}"
    makers: dict[str, list[Any]] = {
        "threshold": [ThresholdComponents(t) for t in _THRESHOLDS],
        "oracle": [ThresholdComponents(t) for t in _THRESHOLDS],
        "dbscan": [NeighborDBSCAN(t, m) for t in _THRESHOLDS for m in (2, 4, 6, 8)],
        "whispers": [ChineseWhispers(t, seed=seed) for t in _THRESHOLDS[::3]],
        "infomap": [Infomap(t, seed=seed + 1) for t in _THRESHOLDS[::3]],
    }
    tuned_on, tuned_graph = (faces, other) if method == "oracle" else (known, graph)
    best = max(makers[method], key=lambda m: _f(tuned_on, m.cluster(*tuned_graph)))
    setting = str(best)
    return (lambda: best.cluster(*other)), setting[setting.index("(") + 1 : -1]


def _f(faces: Faces, labels: NDArray[np.int64]) -> float:
    return pairwise_f(faces.y, labels).f


def _interval(values: Sequence[float]) -> tuple[float, float]:
    from scipy.stats import t

    if len(values) < 2:
        return mean(values), 0.0
    half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return mean(values), half


def _reset_peak() -> None:
    with suppress(OSError):  # Linux starts to measure the peak anew
        Path("/proc/self/clear_refs").write_text("5")
