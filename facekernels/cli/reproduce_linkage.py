"""`facekernels reproduce linkage`: table, plot, JSON and a verdict."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from facekernels.data.files import replacing
from facekernels.systems.ain.linkage.reproduce import METHODS, TASKS, Comparison, run, steps


def reproduce(seeds: int, output: Path, quick: bool) -> int:
    """Run, print, store; 0 whatever the comparison says."""
    from rich.console import Console
    from rich.progress import Progress

    tasks = ["quick"] if quick else [t for t in TASKS if t != "quick"]
    chosen = list(range(1, seeds + 1))
    start = time.perf_counter()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    with Progress(console=console, transient=True) as bar:
        step = bar.add_task("", total=steps(tasks, chosen))
        result = run(tasks, chosen, lambda text: bar.update(step, advance=1, description=text))
    for task in tasks:
        console.print(_table(result, task))
    verdict = result.verdict()
    for sentence in verdict:
        console.print(sentence, markup=False)
    report = {
        "tasks": {t: TASKS[t].label for t in tasks},
        "methods": METHODS,
        "rows": [row._asdict() for row in result.rows],
        "verdict": verdict,
        "seeds": chosen,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "seconds": round(time.perf_counter() - start, 1),
    }
    with replacing(output / "results.json") as temporary:
        text = json.dumps(report, indent=1, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    save_plot(result, tasks, output / "f.svg")
    console.print(f"stored in {output.resolve()}", markup=False, soft_wrap=True)
    return 0


def _table(result: Comparison, task: str) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, title_justify="left", title=TASKS[task].label)
    table.add_column("method")
    for name in ("pairwise F", "BCubed F", "NMI", "clusters", "seconds", "training", "peak MB"):
        table.add_column(name, justify="right", no_wrap=True)
    for method, label in METHODS.items():
        mean, half = result.interval(task, method)
        columns = ("bcubed", "nmi", "clusters", "seconds", "training_seconds", "peak_mb")
        others = [result.interval(task, method, what)[0] for what in columns]
        table.add_row(
            label, f"{mean:.3f} ± {half:.3f}", f"{others[0]:.3f}", f"{others[1]:.3f}",
            f"{others[2]:.0f}", f"{others[3]:.2f}", f"{others[4]:.1f}", f"{others[5]:.0f}",
        )  # fmt: skip
    return table


def save_plot(result: Comparison, tasks: list[str], path: Path) -> None:
    """Pairwise F of every method on every task, seed by seed, with intervals."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(tasks) + 2.5, 3.4), layout="constrained")
    FigureCanvasSVG(figure)
    grid = figure.subplots(1, len(tasks), squeeze=False, sharey=True)
    grid[0, 0].invert_yaxis()
    for task, axes in zip(tasks, grid[0], strict=True):
        for y, method in enumerate(METHODS):
            values = [row.pairwise for row in result.of(task, method)]
            mean, half = result.interval(task, method)
            color = "#b5361c" if method in ("linkage", "rotated") else "#4a5568"
            axes.scatter(values, [y] * len(values), s=14, color="#b8c0cc", zorder=2)
            axes.plot([max(mean - half, 0), min(mean + half, 1)], [y, y], color=color, lw=2)
            axes.scatter([mean], [y], s=46, color=color, zorder=4)
        axes.set_yticks(range(len(METHODS)), list(METHODS.values()))
        axes.set_title(TASKS[task].label, loc="left", fontsize=9)
        axes.set_xlabel("pairwise F on unseen identities")
        axes.grid(axis="x", color="#e2e6ec", lw=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
