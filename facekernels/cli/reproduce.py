"""`facekernels reproduce`: a published comparison run again on images that are at hand."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from facekernels.data.files import replacing


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = argparse.ArgumentParser(
        "facekernels reproduce",
        description="Universal perturbations (random signs, DeepFool, SPGD, SGA) at equal budgets "
        "on scikit-learn's digits and LFW face crops: table, plot, JSON and a verdict.",
    )
    p.add_argument("system", choices=("sga",))
    p.add_argument("--seeds", type=int, default=None, metavar="N",
                   help="number of seeds, 1 to N (default: 5, or 2 with --quick)")  # fmt: skip
    p.add_argument("--output", type=Path, default=Path("results/sga"), metavar="FOLDER",
                   help="where results.json and the plots go (default: %(default)s)")  # fmt: skip
    p.add_argument("--quick", action="store_true",
                   help="digits only, short training: a check, not a result")  # fmt: skip
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print, store; 0 whatever the comparison says."""
    arguments = parser().parse_args(argv)
    seeds = arguments.seeds if arguments.seeds is not None else 2 if arguments.quick else 5
    if seeds < 1:
        print(f"--seeds must be at least 1, got {seeds}", file=sys.stderr)
        return 2

    from rich.console import Console
    from rich.progress import Progress

    from facekernels.systems.sga.plot import save_plots
    from facekernels.systems.sga.reproduce import Settings, run, steps

    chosen = tuple(range(1, seeds + 1))
    settings = (
        Settings(chosen, sets=("digits",), epochs=1, training_steps=60)
        if arguments.quick
        else Settings(chosen)
    )
    arguments.output.mkdir(parents=True, exist_ok=True)  # before the work, not after it
    start = time.perf_counter()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("", total=steps(settings))
        result = run(settings, lambda text: bar.update(task, advance=1, description=text))

    for dataset in settings.sets:
        console.print(_table(result, dataset))
    for sentence in result.verdict():
        console.print(sentence, markup=False)
    report = json.dumps(
        {**result.to_json(), "seconds": round(time.perf_counter() - start, 1),
         "quick": arguments.quick}, indent=1, allow_nan=False)  # fmt: skip
    with replacing(arguments.output / "results.json") as temporary:
        temporary.write_text(report + "\n", encoding="utf-8")
    save_plots(result, [arguments.output / f"fooling.{kind}" for kind in ("png", "svg")])
    console.print(f"stored in {arguments.output.resolve()}", markup=False, soft_wrap=True)
    return 0


def _table(result: object, dataset: str) -> object:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from facekernels.systems.sga.reproduce import EPSILON, KINDS, METHODS, Interval, Run

    assert isinstance(result, Run)

    def percent(value: Interval) -> str:
        return f"{100 * value.mean:.1f} [{100 * value.low:.1f}, {100 * value.high:.1f}]"

    accuracy = ", ".join(
        f"{name} {sum(v) / len(v):.1%}" for name, v in result.accuracy[dataset].items()
    )
    table = Table(box=SIMPLE_HEAD, title_justify="left", caption_justify="left",
                  title=f"{dataset}, epsilon {255 * EPSILON[dataset]:.0f}/255",
                  caption=f"held-out accuracy: {accuracy}")  # fmt: skip
    table.add_column("method", no_wrap=True)
    for kind in KINDS:
        table.add_column(f"{kind}, % fooled", justify="right", no_wrap=True)
    table.add_column("gradients", justify="right", no_wrap=True)
    for method, label in METHODS.items():
        spent = [r.gradients for r in result.rows if (r.dataset, r.method) == (dataset, method)]
        cells = [percent(result.interval(dataset, method, kind)) for kind in KINDS]
        table.add_row(label, *cells, f"{sum(spent) / len(spent):,.0f}",
                      style="bold" if method == "sga" else None)  # fmt: skip
    return table
