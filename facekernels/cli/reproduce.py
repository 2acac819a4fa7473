"""`facekernels reproduce`: a published comparison run again on images that are at hand."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from facekernels.data.files import replacing
from facekernels.systems.registry import SYSTEMS, TRAINED


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = argparse.ArgumentParser(
        "facekernels reproduce",
        description="Run a comparison again; table, plot, JSON and a verdict. "
        + " ".join(f"{name}: {system.compares}." for name, system in SYSTEMS.items()),
    )
    p.add_argument("system", choices=tuple(SYSTEMS))
    p.add_argument(
        "--seeds",
        type=int,
        default=None,
        metavar="N",
        help="seeds 1 to N (default: as many as the comparison states; 2 with --quick)",
    )
    p.add_argument(
        "--output",
        type=Path,
        default=None,
        metavar="FOLDER",
        help="where results.json and the plots go (default: results/SYSTEM)",
    )
    p.add_argument(
        "--quick", action="store_true", help="one small set, short training: a check, not a result"
    )
    p.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help=f"trainings at the same time, one thread each ({' and '.join(TRAINED)}; default: 1)",
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print, store; 0 whatever the comparison says."""
    arguments = parser().parse_args(argv)
    seeds = 2 if arguments.quick and arguments.seeds is None else arguments.seeds
    for option, value in (("--seeds", seeds), ("--jobs", arguments.jobs)):
        if value is not None and value < 1:
            print(f"{option} must be at least 1, got {value}", file=sys.stderr)
            return 2
    output = arguments.output or Path("results") / arguments.system
    output.mkdir(parents=True, exist_ok=True)  # before the work, not after it
    if arguments.system == "sga":
        return _sga(seeds or 5, output, arguments.quick)
    if arguments.system == "linkage":
        from facekernels.cli.reproduce_linkage import reproduce

        return reproduce(seeds or 3, output, arguments.quick)
    from facekernels.cli.reproduce_comparison import reproduce as compare

    return compare(arguments.system, seeds, output, arguments.quick, arguments.jobs)


def _sga(seeds: int, output: Path, quick: bool) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from facekernels.systems.sga.plot import save_plots
    from facekernels.systems.sga.reproduce import Settings, run, steps

    chosen = tuple(range(1, seeds + 1))
    settings = (
        Settings(chosen, sets=("digits",), epochs=1, training_steps=60)
        if quick
        else Settings(chosen)
    )
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
         "quick": quick}, indent=1, allow_nan=False)  # fmt: skip
    with replacing(output / "results.json") as temporary:
        temporary.write_text(report + "\n", encoding="utf-8")
    save_plots(result, [output / f"fooling.{kind}" for kind in ("png", "svg")])
    console.print(f"stored in {output.resolve()}", markup=False, soft_wrap=True)
    return 0


def _table(result: object, dataset: str) -> object:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from facekernels.metrics import Interval
    from facekernels.systems.sga.reproduce import EPSILON, KINDS, METHODS, Run

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
