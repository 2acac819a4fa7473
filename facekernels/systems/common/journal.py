"""Rows of a long run, on disk as soon as they are there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class OtherRun(ValueError):
    """The rows on disk cannot be compared with those to come."""


class Journal:
    """A file of JSON lines: first what the rows have in common, then a row per line.

    Args:
        path: the file; made when the first row comes.
        key: the common part, of JSON's types.

    Raises:
        OtherRun: the file is of another key.
    """

    def __init__(self, path: Path, key: dict[str, Any]) -> None:
        self.path = path
        self._head = json.dumps(key, sort_keys=True)
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]  # a crash may have cut the last line short
        if whole != text:
            path.write_text(whole, encoding="utf-8")
        head, *self._lines = whole.splitlines() or [self._head]
        if head != self._head:
            raise OtherRun(
                f"{path} holds rows of another version or other settings: remove it to start "
                "anew, or choose another folder"
            )

    def rows(self) -> list[dict[str, Any]]:
        """The rows found."""
        return [json.loads(line) for line in self._lines]

    def append(self, row: dict[str, Any]) -> None:
        """Add a row and have it written."""
        new = not self.path.exists() or not self.path.stat().st_size
        with self.path.open("a", encoding="utf-8") as file:
            if new:
                file.write(self._head + "\n")
            file.write(json.dumps(row) + "\n")
