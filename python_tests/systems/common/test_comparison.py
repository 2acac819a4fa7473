"""Comparisons: cells, pairing, intervals, words, and what is stored."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from facekernels.cli.reproduce_comparison import _table
from facekernels.systems.common.comparison import Comparison


def measure(condition: str, method: str, seed: int, quick: bool) -> dict[str, float]:
    """Ours is better by 0.1 under "hard", by nothing under "easy"; seeds shift both alike."""
    gain = {"hard": 0.1, "easy": 0.0}[condition] * (method == "ours")
    # Seeds 1 and 2 draw in opposite directions under "easy".
    noise = 0.01 * (-1) ** seed * (method == "ours")
    return {"accuracy": 0.5 + 0.05 * seed + gain + noise, "error": 0.3 - gain}


def comparison() -> Comparison:
    return Comparison(
        title="a comparison", methods={"ours": "our method", "plain": "plain"},
        conditions={"easy": "easy data", "hard": "hard data"},
        metrics={"accuracy": "accuracy", "error": "error rate"}, measure=measure, ours="ours",
        baselines=("plain",), settings={"steps": 1}, lower_is_better=("error",),
        decided_by=("accuracy", "error"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def done() -> Comparison:
    made, seen = comparison(), []
    made.run((1, 2, 3, 4), jobs=2, done=lambda row: seen.append(row))
    assert len(seen) == 16
    return made


def test_rows_come_in_order(done: Comparison) -> None:
    cells = [(r.seed, r.condition, r.method) for r in done.rows]
    assert cells == sorted(cells, key=lambda c: (c[0], c[1], c[2]))
    assert done.per_seed("easy", "plain", "accuracy") == pytest.approx([0.55, 0.6, 0.65, 0.7])


def test_differences_are_paired(done: Comparison) -> None:
    interval, difference = (
        done.interval("hard", "ours", "accuracy"),
        done.difference("hard", "ours", "plain", "accuracy"),
    )
    assert difference.mean == pytest.approx(0.1)
    # The seeds' common shift is in the interval of the value and not in that of the difference.
    assert difference.high - difference.low < 0.4 * (interval.high - interval.low)


def test_words(done: Comparison) -> None:
    easy, easy_error, hard, hard_error = done.verdict()
    assert easy.startswith(
        "easy data: no difference shown for our method against plain in accuracy"
    )
    assert "easy data" in easy_error
    assert hard.startswith("hard data: our method is better than plain in accuracy (+10.0, 95 %")
    assert hard_error.startswith("hard data: our method is better than plain in error rate (-10.0")


def test_one_seed_decides_nothing() -> None:
    made = comparison()
    made.run((1,))
    assert all("one seed, which decides nothing" in sentence for sentence in made.verdict())
    assert math.isnan(made.interval("easy", "ours", "accuracy").low)
    assert made.to_json()["summary"][0]["value"][1:] == [None, None]


def test_results_are_stored(done: Comparison, tmp_path: Path) -> None:
    done.save(tmp_path)
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored["settings"] == {"steps": 1}
    assert stored["seeds"] == [1, 2, 3, 4]
    assert len(stored["rows"]) == 16
    assert stored["verdict"] == done.verdict()
    assert {"commit", "torch", "quick"} <= set(stored)
    assert stored["commit"] == done.key["commit"]
    assert (tmp_path / "comparison.svg").read_text().count("our method") >= 1
    assert (tmp_path / "comparison.png").stat().st_size > 5000


def test_table_shows_every_method(done: Comparison) -> None:
    table = _table(done, "hard")
    assert table.row_count == 2
    cells = list(table.columns[1].cells)
    assert cells[0].startswith("72.")
    assert "[" in cells[0]


def test_a_failed_training_is_not_hidden() -> None:
    made = comparison()
    made.conditions["none"] = "no such condition"
    with pytest.raises(KeyError, match="none"):
        made.run((1,))


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    """Rows that are on disk are not measured again: here one is a value that no training gives."""
    made = comparison()
    made.conditions["none"] = "no such condition"
    kept = tmp_path / "rows.jsonl"
    with pytest.raises(KeyError, match="none"):
        made.run((1,), kept=kept)
    head, first, *rest = kept.read_text().splitlines()
    marked = json.dumps(json.loads(first) | {"values": {"accuracy": 9.0, "error": 0.0}})
    kept.write_text("\n".join([head, marked, *rest]) + '\n{"condition": "ea')  # cut by a crash

    again, seen = comparison(), []
    again.run((1, 2), done=lambda row: seen.append(row), kept=kept)
    assert len(again.rows) == len(seen) == 8
    assert again.per_seed("easy", "ours", "accuracy")[0] == 9.0
    assert len(kept.read_text().splitlines()) == 9


def test_rows_of_other_settings_are_refused(tmp_path: Path) -> None:
    kept = tmp_path / "rows.jsonl"
    comparison().run((1,), kept=kept)
    other = comparison()
    other.settings = {"steps": 2}
    with pytest.raises(ValueError, match=r"rows.jsonl holds rows of another version or other"):
        other.run((1,), kept=kept)
