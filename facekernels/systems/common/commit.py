"""Which version of the code a stored result comes from."""

from __future__ import annotations

import subprocess
from pathlib import Path


def commit(package: Path = Path(__file__).parents[2]) -> str:
    """The checkout's commit, with "-dirty" if files differ from it; "unknown" elsewhere.

    Args:
        package: folder of facekernels. A package installed inside the checkout of another project
            is not that project's commit.
    """
    try:
        if _git(package, "rev-parse", "--show-prefix") != f"{package.name}/":
            return "unknown"
        if not _git(package, "ls-files", "__init__.py"):
            return "unknown"
        return _git(package, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(folder: Path, *command: str) -> str:
    return subprocess.run(
        ["git", *command], cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()
