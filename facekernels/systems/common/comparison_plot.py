"""The plot of a comparison: one panel per condition and metric, means with their intervals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from facekernels.data.files import replacing

if TYPE_CHECKING:
    from facekernels.systems.common.comparison import Comparison

_OURS, _OTHER, _SEEDS = "#b5361c", "#4a5568", "#b8c0cc"


def save_plot(result: Comparison, path: Path) -> None:
    """Write the plot, in the format of the path's suffix."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    methods, metrics = list(result.methods), list(result.metrics)
    lines, columns = len(result.conditions), len(metrics)
    height = 0.9 + lines * (0.7 + 0.3 * len(methods))
    figure = Figure(figsize=(2 + 3.6 * columns, height), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(lines, columns, squeeze=False, sharex="col", sharey=True)
    factor = 100 if result.percent else 1
    for condition, line in zip(result.conditions, grid, strict=True):
        for metric, axes in zip(metrics, line, strict=True):
            for y, method in enumerate(reversed(methods)):
                values = [factor * v for v in result.per_seed(condition, method, metric)]
                mean, low, high = (factor * v for v in result.interval(condition, method, metric))
                color = _OURS if method == result.ours else _OTHER
                axes.scatter(values, [y] * len(values), s=12, color=_SEEDS, zorder=2)
                if not math.isnan(low):
                    axes.plot([low, high], [y, y], color=color, lw=2, zorder=3)
                axes.scatter([mean], [y], s=40, color=color, zorder=4)
            labels = [result.methods[m] for m in reversed(methods)]
            axes.set_yticks(range(len(methods)), labels)
            axes.grid(axis="x", color="#e2e6ec", lw=0.8)
            axes.set_axisbelow(True)
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.tick_params(axis="y", length=0)
            axes.set_title(result.conditions[condition], loc="left", fontsize=10)
    for metric, axes in zip(metrics, grid[-1], strict=True):
        axes.set_xlabel(result.metrics[metric] + (" (%)" if result.percent else ""))
    seeds = len({r.seed for r in result.rows})
    figure.suptitle(
        f"{result.title}. Large dots: mean over {seeds} seeds; bars: 95 % t-interval; small dots: "
        "single seeds",
        fontsize=8, color=_OTHER, x=0.99, ha="right",
    )  # fmt: skip
    with replacing(path) as temporary:
        kind = path.suffix[1:]
        figure.savefig(temporary, format=kind, dpi=120,
                       metadata={"Date": None} if kind == "svg" else None)  # fmt: skip
