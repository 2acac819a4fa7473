"""The documentation: every public name has its place, every Python block runs, the site builds."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from inspect import isfunction, signature
from pathlib import Path

import pytest

import facekernels as fk

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

FENCE = re.compile(r"^( *)```python\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
DIRECTIVE = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)


def python_blocks(text: str) -> list[tuple[int, str]]:
    """Line number and code of each ```python block; indented ones, as in lists, are dedented."""
    return [
        (text[: match.start(2)].count("\n") + 1, textwrap.dedent(match.group(2)))
        for match in FENCE.finditer(text)
    ]


BLOCKS = [(page, *block) for page in PAGES for block in python_blocks(page.read_text())]


def test_block_finder() -> None:
    text = (
        "a\n```python\nx = 1\n```\n```bash\nls\n```\n"
        "- b\n\n    ```python\n    if x:\n        y\n    ```\n"
    )
    assert python_blocks(text) == [(3, "x = 1\n"), (11, "if x:\n    y\n")]


@pytest.mark.parametrize(
    ("page", "line", "code"),
    BLOCKS,
    ids=[f"{page.relative_to(ROOT)}:{line}" for page, line, _ in BLOCKS],
)
def test_python_block_runs(
    page: Path, line: int, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a namespace of its own, as a reader would paste it; errors name the page's own line."""
    monkeypatch.chdir(tmp_path)  # a block may write files
    exec(compile("\n" * (line - 1) + code, str(page), "exec"), {"__name__": "__main__"})


def public_names() -> list[str]:
    ops = [f"facekernels.ops.{name}" for name in fk.ops.__all__]
    modules = [f"facekernels.nn.{name}" for name in fk.nn.__all__]
    return [*ops, *modules, "facekernels.backend"]


@pytest.mark.parametrize("name", public_names())
def test_public_name_has_a_page(name: str) -> None:
    documented = {n for page in PAGES for n in DIRECTIVE.findall(page.read_text())}
    assert name in documented


@pytest.mark.parametrize("name", [n for n in fk.ops.__all__ if isfunction(getattr(fk.ops, n))])
def test_readme_shows_the_signature(name: str) -> None:
    """Every parameter by its name, in the line that starts with the op."""
    text = (ROOT / "README.md").read_text()
    shown = re.search(rf"^{name}\((.*?)\) ?(?:->|$)", text, re.DOTALL | re.MULTILINE)
    assert shown is not None
    names = re.findall(r"(\w+)(?:=(?:\([^)]*\)|[^,)]+))?", shown.group(1))
    assert names == list(signature(getattr(fk.ops, name)).parameters)


def test_adding_an_op_names_real_files() -> None:
    """The recipe, with the model family's name in it, lists files that exist."""
    text = (DOCS / "adding_an_op.md").read_text()
    files = re.findall(r"`((?:csrc|facekernels|python_tests|benchmarks|docs)/[\w./]+)`", text)
    assert len(files) >= 10
    for file in files:
        path = ROOT / re.sub(r"\bname\b|(?<=_)name\b", "mlca", file)
        assert path.exists(), file


def test_site_builds_without_warnings(tmp_path: Path) -> None:
    if find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed")
    run = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    assert "facekernels.ops.mlca_gate" in (tmp_path / "ops/mlca/index.html").read_text()
