"""Batches by step: the same for every number of processes and every starting step."""

from __future__ import annotations

import pytest
import torch

from facekernels.systems.common.data_module import StepData
from facekernels.systems.common.steps import ShardOfRank, StepBatches
from facekernels.systems.common.training import trainer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


def test_every_image_comes_once_per_pass() -> None:
    batches = list(StepBatches(10, 5, 4, seed=3))
    for first in (0, 2):
        drawn = [d.row for batch in batches[first : first + 2] for d in batch]
        assert sorted(drawn) == list(range(10))
    assert [d.row for d in batches[0] + batches[1]] != [d.row for d in batches[2] + batches[3]]


def test_keys_differ_between_steps_rows_and_seeds() -> None:
    keys = [d.key for seed in (0, 1) for batch in StepBatches(7, 4, 9, seed=seed) for d in batch]
    assert len(set(keys)) == 2 * 9 * 4


def test_processes_share_the_batch_of_one() -> None:
    whole = list(StepBatches(11, 6, 5, seed=1))
    parts = [list(StepBatches(11, 6, 5, seed=1, rank=r, world=3)) for r in range(3)]
    for step, batch in enumerate(whole):
        assert [p[step] for p in parts] == [batch[r::3] for r in range(3)]


def test_a_continued_training_goes_on_where_it_stopped() -> None:
    whole = StepBatches(11, 4, 7, seed=1)
    rest = StepBatches(11, 4, 7, seed=1, start=3)
    assert list(rest) == list(whole)[3:]
    assert len(rest) == len(whole) == 7


@pytest.mark.parametrize(("length", "world"), [(7, 1), (7, 2), (8, 2), (2, 3)])
def test_processes_share_an_evaluation(length: int, world: int) -> None:
    """Dealt out like cards: row i of process r is image i * world + r, none twice, none padded."""
    shards = [list(ShardOfRank(range(length), r, world)) for r in range(world)]
    assert [len(ShardOfRank(range(length), r, world)) for r in range(world)] == list(
        map(len, shards)
    )
    dealt = sorted((i * world + r, row) for r, s in enumerate(shards) for i, row in enumerate(s))
    assert dealt == [(i, i) for i in range(length)]


def test_large_seeds_are_seeds() -> None:
    """Up to 32 bits come from `--seed_everything true`."""
    made = StepData(batch_size=4, seed=2**32 - 1)
    made.trainer = trainer(3)
    first, other = (list(made.step_batches(9, 4, stream=s)) for s in (0, 15))
    assert first != other
    assert all(0 <= d.key < 2**63 for batch in first + other for d in batch)


def test_validation_after_no_step_is_refused() -> None:
    made = StepData(batch_size=4)
    made.trainer = trainer(3, val_check_interval=0, check_val_every_n_epoch=None)
    with pytest.raises(ValueError, match=r"trainer\.val_check_interval must be at least 1"):
        made.step_batches(9, 4)


def test_weights_are_odds() -> None:
    weights = torch.tensor([0.0, 1.0, 3.0])
    drawn = [d.row for b in StepBatches(3, 50, 40, weights=weights) for d in b]
    share = torch.bincount(torch.tensor(drawn), minlength=3) / len(drawn)
    # 2000 draws: standard deviation of a share is below 0.01.
    torch.testing.assert_close(share, weights / 4, atol=0.04, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"length": 0}, "at least one image, got 0"),
        ({"batch_size": 3, "world": 2}, "batch_size counts the images of all processes"),
        ({"weights": torch.ones(4)}, r"weights must be \[5\]"),
        ({"weights": -torch.ones(5)}, "not negative"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        StepBatches(**{"length": 5, "batch_size": 2, "steps": 1, **arguments})  # type: ignore[arg-type]
