"""`facekernels reproduce` of a stated comparison: table, plot, JSON and a verdict."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from facekernels.systems.common.comparison import Comparison

_HEADING = 18
"""Characters of a heading's line: as wide as a number with its interval."""


def reproduce(system: str, seeds: int | None, output: Path, quick: bool, jobs: int) -> int:
    """Run, print, store; 0 whatever the comparison says. `seeds` None: as it states itself."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    from facekernels.systems.common.journal import OtherRun

    made: Comparison = import_module(f"facekernels.systems.{system}.reproduce").comparison(quick)
    seeds = seeds or made.seeds
    kept = output / "rows.jsonl"
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    with Progress("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                  console=console, transient=True) as bar:  # fmt: skip
        total = seeds * len(made.conditions) * len(made.methods)
        task = bar.add_task(system, total=total)
        try:
            made.run(range(1, seeds + 1), jobs, lambda row: bar.advance(task), kept)
        except OtherRun as error:  # the sentence says what to do
            print(f"facekernels reproduce {system}: {error}", file=sys.stderr)
            return 1
    for condition in made.conditions:
        console.print(_table(made, condition))
    for sentence in made.verdict():
        console.print(sentence, markup=False)
    console.print("Intervals are of one comparison each, not corrected for their number.")
    made.save(output)
    if len(kept.read_text(encoding="utf-8").splitlines()) == len(made.rows) + 1:
        kept.unlink()  # results.json has them all
    console.print(f"stored in {output.resolve()}", markup=False, soft_wrap=True)
    return 0


def _table(made: Comparison, condition: str) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, title_justify="left", title=made.conditions[condition])
    table.add_column("method")
    for label in made.metrics.values():
        heading = fill(label + (", %" if made.percent else ""), _HEADING)
        table.add_column(heading, justify="right", no_wrap=True)
    for method, label in made.methods.items():
        cells = [made.cell(condition, method, metric) for metric in made.metrics]
        table.add_row(label, *cells, style="bold" if method == made.ours else None)
    return table
