"""What the terminal shows: with rich, or in plain lines where there is no tty or no rich."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from facekernels.cli.demo.checks import Result

HEADERS = ("op", "map", "back end", "max error", "allowed", "ours", "eager", "speed-up", "")


def row(result: Result) -> tuple[str, ...]:
    """One line of the table, as text."""
    return (
        result.label,
        "×".join(map(str, result.shape)),
        result.backend,
        f"{result.error:.1e}",
        f"{result.tolerance:.0e}",
        milliseconds(result.ours),
        milliseconds(result.eager),
        f"{result.speedup:.1f}×",
        "ok" if result.ok else "FAILED",
    )


def milliseconds(seconds: float) -> str:
    """Three digits that count."""
    value = 1e3 * seconds
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 3
    return f"{value:.{digits}f} ms"


class Terminal:
    """Prints to standard output."""

    def __init__(self) -> None:
        self._console: Any = None
        if sys.stdout.isatty():
            try:
                from rich.console import Console
            except ModuleNotFoundError:
                return
            self._console = Console(highlight=False)

    def line(self, text: str = "") -> None:
        """One line of text."""
        if self._console is None:
            print(text, flush=True)
        else:
            self._console.print(text, markup=False)

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Progress]:
        """A bar for `total` steps; without a terminal, one line when it starts."""
        if self._console is None:
            print(f"{title} ...", flush=True)
            yield Progress(None, None)
            return
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description:<34}"), BarColumn(),
                   TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn())  # fmt: skip
        with Bar(*columns, console=self._console) as bar:
            yield Progress(bar, bar.add_task(title, total=total))

    def table(self, results: Sequence[Result]) -> None:
        """The table of checks."""
        rows = [row(r) for r in results]
        if self._console is None:
            lines: list[tuple[str, ...]] = [HEADERS, *rows]
            widths = [max(len(r[i]) for r in lines) for i in range(len(HEADERS))]
            for line in lines:
                padded = [c.ljust(w) if i < 3 else c.rjust(w)
                         for i, (c, w) in enumerate(zip(line, widths, strict=True))]  # fmt: skip
                print("  ".join(padded).rstrip())
            return
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for i, header in enumerate(HEADERS):
            table.add_column(header, justify="left" if i < 3 else "right", no_wrap=True)
        for result, texts in zip(results, rows, strict=True):
            table.add_row(*texts, style=None if result.ok else "bold red")
        self._console.print(table)


class Progress:
    """Handed to the work that a bar stands for."""

    def __init__(self, bar: Any, task: Any) -> None:
        self._bar, self._task = bar, task

    def step(self, description: str | None = None) -> None:
        """One step is done; `description` replaces the title."""
        if self._bar is not None:
            self._bar.update(self._task, advance=1, description=description)
