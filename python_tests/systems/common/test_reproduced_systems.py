"""The systems' comparisons: one short training of each kind, from the same start."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from facekernels.systems.balanced_fer import reproduce as balanced_fer
from facekernels.systems.swinface import reproduce as swinface

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


@pytest.mark.parametrize(
    ("system", "condition", "method"),
    [
        (balanced_fer, "faces 10", "both"),
        (balanced_fer, "digits 50", "logit_adjustment"),
        (swinface, "faces", "attention"),
        (swinface, "faces", "single"),
    ],
)
def test_a_cell(system: Any, condition: str, method: str) -> None:
    made = system.comparison()
    assert condition in made.conditions
    assert method in made.methods
    values = system.measure(condition, method, 1, True)
    assert set(values) == set(made.metrics)
    assert all(0 <= v <= 1 for v in values.values())


@pytest.mark.parametrize("system", [balanced_fer, swinface])
def test_all_methods_of_a_seed_start_from_the_same_weights(system: Any) -> None:
    """Whatever the process has drawn before: a worker goes from cell to cell."""
    starts = []
    for state in (5, 6):
        torch.manual_seed(state)
        starts.append(system._start.__wrapped__(1, system.QUICK))
    for key, value in starts[0].items():
        assert torch.equal(value, starts[1][key]), key
    other = system._start.__wrapped__(2, system.QUICK)
    assert any(not torch.equal(v, other[k]) for k, v in starts[0].items())
