"""The plot of the reproduction: fooling ratios with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from facekernels.data.files import replacing
from facekernels.systems.sga.reproduce import EPSILON, KINDS, METHODS, Run

_MARKED, _OTHER, _SEEDS = "#b5361c", "#4a5568", "#b8c0cc"


def save_plots(run: Run, paths: Sequence[Path]) -> None:
    """Write the plot to each path, in the format of its suffix."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, count = run.settings.sets, len(METHODS)
    figure = Figure(figsize=(10, 0.9 + 2.5 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), len(KINDS), squeeze=False, sharex="row", sharey=True)
    for dataset, line in zip(rows, grid, strict=True):
        for kind, axes in zip(KINDS, line, strict=True):
            for y, method in enumerate(METHODS):
                values = [100 * v for v in run.per_seed(dataset, method, kind)]
                mean, low, high = (100 * v for v in run.interval(dataset, method, kind))
                color = _MARKED if method == "sga" else _OTHER
                axes.scatter(values, [y] * len(values), s=14, color=_SEEDS, zorder=2)
                axes.plot([max(low, 0), min(high, 100)], [y, y], color=color, lw=2, zorder=3)
                axes.scatter([mean], [y], s=46, color=color, zorder=4)
            axes.set_yticks(range(count), list(METHODS.values()))
            axes.set_ylim(-0.6, count - 0.4)
            axes.set_xlim(left=0)
            axes.grid(axis="x", color="#e2e6ec", lw=0.8)
            axes.set_axisbelow(True)
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.tick_params(axis="y", length=0)
            level = f"ε = {255 * EPSILON[dataset]:.0f}/255"
            axes.set_title(f"{dataset}, {kind}, {level}", loc="left", fontsize=11)
    for axes in grid[-1]:
        axes.set_xlabel("held-out images fooled (%)")
    seeds = len(run.settings.seeds)
    figure.suptitle(
        f"Large dots: mean over {seeds} seeds; bars: 95 % t-interval; small dots: single seeds",
        fontsize=9, color=_OTHER, x=0.99, ha="right",
    )  # fmt: skip
    for path in paths:
        with replacing(path) as temporary:
            kind = path.suffix[1:]
            figure.savefig(temporary, format=kind, dpi=150,
                           metadata={"Date": None} if kind == "svg" else None)  # fmt: skip
