from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from facekernels.cli import main
from facekernels.metrics import t_interval
from facekernels.systems.sga.reproduce import METHODS, Row, Run, Settings


def made_up(difference: float) -> Run:
    """SGA beats SPGD by `difference`, give or take a little, in every cell."""
    rows = [
        Row("digits", seed, method, source, target,
            0.5 + 0.01 * seed + (difference + 0.001 * seed if method == "sga" else 0), 1, 1)
        for seed in (1, 2, 3) for method in METHODS
        for source in ("conv", "residual") for target in ("conv", "residual")
    ]  # fmt: skip
    return Run(Settings(seeds=(1, 2, 3), sets=("digits",)), rows, {})


def test_t_interval_against_a_table() -> None:
    # t(0.975, 4 degrees of freedom) = 2.7764; the standard deviation of 1..5 is sqrt(2.5).
    mean, low, high = t_interval([1, 2, 3, 4, 5])
    half = 2.7764 * math.sqrt(2.5 / 5)
    assert (mean, low, high) == pytest.approx((3, 3 - half, 3 + half), abs=1e-4)
    assert math.isnan(t_interval([1.0]).low)


@pytest.mark.parametrize(
    ("difference", "words"),
    [(0.1, "SGA fools more"), (-0.1, "SGA fools less"), (-0.002, "no difference shown")],
)
def test_verdict_follows_the_numbers(difference: float, words: str) -> None:
    for sentence in made_up(difference).verdict():
        assert words in sentence


def test_white_box_and_transfer_are_kept_apart() -> None:
    run = made_up(0.0)
    run.rows[:] = [r._replace(fooling_ratio=0.9 if r.source == r.target else 0.1) for r in run.rows]
    assert run.per_seed("digits", "sga", "white-box") == pytest.approx([0.9] * 3)
    assert run.per_seed("digits", "sga", "transfer") == pytest.approx([0.1] * 3)
    with pytest.raises(ValueError, match="kind must be one of white-box, transfer"):
        run.per_seed("digits", "sga", "black-box")


def test_quick_run_spends_equal_budgets_and_stores_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["reproduce", "sga", "--quick", "--seeds", "1", "--output", str(tmp_path / "out")]
    assert main(arguments) == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    spent = {row["method"]: row["gradients"] for row in found["rows"]}
    assert spent["sga"] == spent["spgd"] == spent["spgd_small"] == 4 * spent["spgd_updates"] > 0
    assert spent["random"] == 0
    assert len(found["rows"]) == len(METHODS) * 4
    assert found["commit"]
    assert found["quick"] is True
    for sentence in found["verdict"]:
        assert "decides nothing" in sentence
    for row in found["rows"]:
        assert 0 <= row["fooling_ratio"] <= 1
    assert min(v[0] for v in found["accuracy"]["digits"].values()) > 0.5
    printed = capsys.readouterr().out
    for label in METHODS.values():
        assert label in printed
    assert (tmp_path / "out" / "fooling.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "out" / "fooling.svg").read_text()


def test_bad_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "sga", "--seeds", "0"]) == 2
    assert "--seeds must be at least 1, got 0" in capsys.readouterr().err
