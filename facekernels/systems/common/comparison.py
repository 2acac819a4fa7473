"""A published comparison run again: methods x conditions x seeds, with intervals and a verdict.

A system's `reproduce.py` makes one `Comparison`, with a function that trains one method under one
condition with one seed and returns the measured numbers. Everything else is here: processes,
intervals, JSON, table, plot, and sentences.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from facekernels.data.files import replacing
from facekernels.metrics.intervals import Interval, t_interval
from facekernels.systems.common.commit import commit
from facekernels.systems.common.journal import Journal


class Row(NamedTuple):
    """One training, judged."""

    condition: str
    method: str
    seed: int
    values: dict[str, float]
    seconds: float


Measure = Callable[[str, str, int, bool], dict[str, float]]
"""``(condition, method, seed, quick)`` to the metrics' values. A function of a module, since other
processes call it."""


@dataclass
class Comparison:
    """What is compared, and what came out.

    Args:
        title: heads table and plot.
        methods: key to label, in the order of the table.
        conditions: key to label.
        metrics: key to label. Values are shares in [0, 1] unless `percent` is
            False.
        measure: one training.
        ours: the method the paper proposes.
        baselines: the methods it is compared with in words.
        settings: numbers the runs depend on, for the record.
        lower_is_better: metrics of which less is better.
        seeds: of a full run.
        decided_by: the metrics that the verdict speaks of; the first alone if empty.
        quick: a short check of the code, not a result; `measure` is told.
    """

    title: str
    methods: dict[str, str]
    conditions: dict[str, str]
    metrics: dict[str, str]
    measure: Measure
    ours: str
    baselines: tuple[str, ...]
    settings: dict[str, Any]
    percent: bool = True
    lower_is_better: tuple[str, ...] = ()
    seeds: int = 5
    decided_by: tuple[str, ...] = ()
    quick: bool = False
    rows: list[Row] = field(default_factory=list)
    key: dict[str, Any] = field(default_factory=dict)
    """What the rows have in common: settings, commit, versions. Made by `run`."""

    def run(
        self,
        seeds: Sequence[int],
        jobs: int = 1,
        done: Callable[[Row], None] = lambda _: None,
        kept: Path | None = None,
    ) -> None:
        """Train and judge every method under every condition with every seed.

        Args:
            seeds: one training of each method and condition for each.
            jobs: trainings at the same time; each has one thread.
            done: told of each row, those found in `kept` included.
            kept: file to which every row is appended when its training ends. Rows found there are
                not measured again, so that an interrupted run goes on.

        Raises:
            OtherRun: `kept` has rows of other settings.
        """
        cells = [(c, m, s) for s in seeds for c in self.conditions for m in self.methods]
        self.key = {  # now: the checkout may have moved on when the last training ends
            "title": self.title, "settings": self.settings, "quick": self.quick,
            "commit": commit(), "torch": torch.__version__,
        }  # fmt: skip
        journal = None if kept is None else Journal(kept, self.key)
        found = [] if journal is None else [Row(**row) for row in journal.rows()]
        self.rows = [r for r in found if r[:3] in cells]
        for row in self.rows:
            done(row)
        missing = [c for c in cells if c not in {r[:3] for r in self.rows}]
        # Spawned: a forked child would inherit torch's thread pool in an unknown state.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, context, _one_thread) as pool:
            futures = {pool.submit(_timed, self.measure, *c, self.quick): c for c in missing}
            try:
                for future in as_completed(futures):
                    row = Row(*futures[future], *future.result())
                    if journal is not None:
                        journal.append(row._asdict())
                    self.rows.append(row)
                    done(row)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        self.rows.sort(key=lambda r: cells.index(r[:3]))

    def per_seed(self, condition: str, method: str, metric: str) -> list[float]:
        """One value per seed, in the order of the seeds."""
        return [
            r.values[metric] for r in self.rows if (r.condition, r.method) == (condition, method)
        ]

    def interval(self, condition: str, method: str, metric: str) -> Interval:
        """Mean and 95 % interval over seeds."""
        return t_interval(self.per_seed(condition, method, metric))

    def difference(self, condition: str, method: str, other: str, metric: str) -> Interval:
        """`method` minus `other`, paired by seed: same data, same start."""
        pairs = zip(self.per_seed(condition, method, metric),
                    self.per_seed(condition, other, metric), strict=True)  # fmt: skip
        return t_interval([a - b for a, b in pairs])

    def verdict(self) -> list[str]:
        """A sentence for each condition, baseline and deciding metric."""
        return [
            f"{self.conditions[condition]}: {self._sentence(condition, other, metric)}"
            for condition in self.conditions
            for other in self.baselines
            for metric in self.decided_by or tuple(self.metrics)[:1]
        ]

    def _sentence(self, condition: str, other: str, metric: str) -> str:
        difference = self.difference(condition, self.ours, other, metric)
        names = f"{self.methods[self.ours]} {{}} {self.methods[other]} in {self.metrics[metric]}"
        number = self._number(difference.mean, sign=True)
        if math.isnan(difference.low):
            return f"{names.format('against')}: {number} with one seed, which decides nothing"
        bounds = (f"95 % interval {self._number(difference.low, sign=True)} to "
                  f"{self._number(difference.high, sign=True)}")  # fmt: skip
        if difference.low <= 0 <= difference.high:
            return f"no difference shown for {names.format('against')} ({number}, {bounds})"
        better = (difference.mean > 0) != (metric in self.lower_is_better)
        word = "is better than" if better else "is worse than"
        return f"{names.format(word)} ({number}, {bounds})"

    def _number(self, value: float, sign: bool = False) -> str:
        form = "+" if sign else ""
        return f"{100 * value:{form}.1f}" if self.percent else f"{value:{form}.3f}"

    def to_json(self) -> dict[str, Any]:
        """Everything, for `json.dump`; bounds of a single seed are null."""
        return {
            **self.key,
            "machine": platform.machine(),
            "seeds": sorted({r.seed for r in self.rows}),
            "interval": "Student's t over seeds, 95 %, not corrected for the number of intervals; "
            "differences are paired by seed",
            "verdict": self.verdict(),
            "summary": list(self._summary()),
            "rows": [r._asdict() for r in self.rows],
        }

    def _summary(self) -> Iterator[dict[str, Any]]:
        for condition in self.conditions:
            for method in self.methods:
                for metric in self.metrics:
                    yield {
                        "condition": condition, "method": method, "metric": metric,
                        "value": _finite(self.interval(condition, method, metric)),
                        "ours_minus_this": _finite(
                            self.difference(condition, self.ours, method, metric)
                        ),
                    }  # fmt: skip

    def save(self, folder: Path) -> None:
        """`results.json` and the plot."""
        with replacing(folder / "results.json") as temporary:
            text = json.dumps(self.to_json(), indent=1, allow_nan=False)
            temporary.write_text(text + "\n", encoding="utf-8")
        from facekernels.systems.common.comparison_plot import save_plot

        for kind in ("svg", "png"):
            save_plot(self, folder / f"comparison.{kind}")

    def cell(self, condition: str, method: str, metric: str) -> str:
        """`81.2 [79.0, 83.4]`."""
        mean, low, high = self.interval(condition, method, metric)
        if math.isnan(low):
            return self._number(mean)
        return f"{self._number(mean)} [{self._number(low)}, {self._number(high)}]"


def _timed(measure: Measure, *cell: Any) -> tuple[dict[str, float], float]:
    start = time.perf_counter()
    values = measure(*cell)
    return values, round(time.perf_counter() - start, 2)


def _one_thread() -> None:
    torch.set_num_threads(1)


def _finite(interval: Interval) -> list[float | None]:
    return [None if math.isnan(v) else v for v in interval]
