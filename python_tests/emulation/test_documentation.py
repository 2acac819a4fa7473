"""The example in docs/emulation.md compiles and prints what the page says."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import emulation_toolchain as toolchain

PAGE = toolchain.CSRC.parent / "docs" / "emulation.md"


def block(language: str) -> str:
    """The page's first fenced block in that language."""
    found = re.search(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    return found.group(1)


def test_example(emulation_runtime: list[str], tmp_path: Path) -> None:
    source = tmp_path / "row_sum.cu"
    source.write_text(block("cpp"))
    program = toolchain.link(source, tmp_path / "row_sum", emulation_runtime, "plain")
    environment = os.environ | {"FACEKERNELS_EMU_WORKERS": "1"}
    result = subprocess.run([program], env=environment, text=True, capture_output=True, check=True)
    assert result.stdout == block("text")


def test_every_setting_is_documented() -> None:
    code = (toolchain.CSRC / "emulation" / "config.cpp").read_text()
    settings = set(re.findall(r'(?:number|variable)\("([A-Z_]+)"', code))
    assert len(settings) >= 9
    table_row = re.compile(r"^\| `FACEKERNELS_EMU_([A-Z_]+)` \|", re.MULTILINE)
    documented = set(table_row.findall(PAGE.read_text()))
    assert documented == settings
