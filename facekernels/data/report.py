"""What a reader found wrong with a data set."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

Kind = Literal[
    "missing file", "unreadable line", "label out of range", "unreadable image",
    "duplicate entry", "empty class",
]  # fmt: skip

KINDS: tuple[Kind, ...] = get_args(Kind)
"""All kinds of problems, in the order of the printed tables."""

_KEPT = 20


class Problem(NamedTuple):
    """One entry that cannot be used."""

    kind: Kind
    where: str
    """The file, with the line number after a colon where there is one."""
    message: str

    def __str__(self) -> str:
        return f"{printable(self.where)}: {self.kind}: {printable(self.message)}"


@dataclass
class Report:
    """Counts and lists what is wrong; the entry concerned is left out, never replaced.

    Args:
        strict: raise at the first problem instead.
    """

    strict: bool = False
    counts: Counter[Kind] = field(default_factory=Counter)
    """How many problems of each kind."""
    problems: list[Problem] = field(default_factory=list)
    """The first 20 of each kind."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Sound entries without a label that is used, by reason."""

    def add(self, kind: Kind, where: str, message: str) -> None:
        """Note one problem.

        Raises:
            ValueError: it is the first and the report is strict.
        """
        problem = Problem(kind, where, message)
        if self.strict:
            raise ValueError(str(problem))
        self.counts[kind] += 1
        if self.counts[kind] <= _KEPT:
            self.problems.append(problem)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.counts

    def summary(self) -> str:
        """One line: the counts and the first problem."""
        if self.ok:
            return "no problem"
        counts = ", ".join(f"{kind}: {self.counts[kind]}" for kind in KINDS if self.counts[kind])
        return f"{counts}; first: {self.problems[0]}"


def printable(text: str) -> str:
    """Text that every terminal takes: bytes of a name that are no UTF-8 are shown as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
