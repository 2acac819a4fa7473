"""What `facekernels reproduce` prints of a comparison."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from facekernels.cli.reproduce_comparison import reproduce
from facekernels.systems.common.comparison import Comparison


def measure(condition: str, method: str, seed: int, quick: bool) -> dict[str, float]:
    return {f"metric{k}": 0.5 + 0.01 * seed + (method == "ours") for k in range(4)}


def comparison(quick: bool = False) -> Comparison:
    return Comparison(
        title="a comparison",
        methods={"ours": "a method with a rather long name (ours)", "plain": "plain"},
        conditions={"easy": "easy data"},
        metrics={f"metric{k}": f"number {k} of the metrics with long names" for k in range(4)},
        measure=measure, ours="ours", baselines=("plain",), settings={}, seeds=4, quick=quick,
    )  # fmt: skip


@pytest.fixture
def printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    module = ModuleType("facekernels.systems.made.reproduce")
    module.comparison = comparison  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "facekernels.systems.made", ModuleType("made"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert reproduce("made", None, tmp_path, False, 1) == 0
    return capsys.readouterr().out


def test_nothing_is_cut_and_seeds_are_its_own(printed: str, tmp_path: Path) -> None:
    assert "…" not in printed
    assert printed.split().count("names,") == 4  # the last word of every heading
    assert printed.count("[") == 8
    stored = (tmp_path / "results.json").read_text()
    assert '"seed": 4' in stored
    assert '"seed": 5' not in stored


def test_intervals_are_said_to_be_of_one_comparison(printed: str) -> None:
    assert "not corrected for their number" in printed
