"""A stored result names the commit of a facekernels checkout, and no other project's."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from facekernels.systems.common.commit import commit


def git(folder: Path, *command: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    return subprocess.check_output(["git", *who, *command], cwd=folder, text=True).strip()


def package(folder: Path) -> Path:
    made = folder / "facekernels"
    made.mkdir(parents=True)
    (made / "__init__.py").write_text("")
    return made


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    package(tmp_path)
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_of_a_checkout(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    assert commit(checkout / "facekernels") == head
    (checkout / "facekernels" / "__init__.py").write_text("changed")
    assert commit(checkout / "facekernels") == f"{head}-dirty"


def test_installed_inside_a_foreign_checkout(checkout: Path) -> None:
    installed = package(checkout / ".venv" / "site-packages")
    assert commit(installed) == "unknown"
    git(checkout, "add", "-fA")  # even if that project keeps its environment
    git(checkout, "commit", "-qm", "second")
    assert commit(installed) == "unknown"


def test_installed_into_the_top_folder_of_a_foreign_checkout(checkout: Path) -> None:
    git(checkout, "rm", "-q", "--cached", "-r", "facekernels")
    git(checkout, "commit", "-qm", "second", "--allow-empty")
    assert commit(checkout / "facekernels") == "unknown"


def test_without_git(tmp_path: Path) -> None:
    assert commit(package(tmp_path)) == "unknown"
