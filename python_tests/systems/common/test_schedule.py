"""Learning rates of the published trainings."""

from __future__ import annotations

import pytest
import torch

from facekernels.systems.common.schedule import Optimization, WarmupSchedule


def paper() -> Optimization:
    return Optimization(
        lr=5e-4, warmup_steps=2000, warmup_lr=5e-7, min_lr=5e-6, lr_batch=512, warmup_jump=True
    )


def rates(optimization: Optimization, total: int, batch: int, steps: int) -> list[float]:
    parameter = torch.nn.Parameter(torch.zeros(1))
    made = optimization.make([{"params": [parameter]}], total, batch)
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_balanced_fer_rate_at_batch_32() -> None:
    """The log of the released training shows 3.125e-5."""
    found = rates(paper(), 60000, 32, 2001)
    assert found[0] == pytest.approx(3.125e-8)
    assert found[1000] == pytest.approx((3.125e-5 + 3.125e-8) / 2)
    # The cosine counts from 0, so that the base rate itself is never reached.
    assert found[2000] == pytest.approx(3.125e-5, rel=3e-3)
    assert found[2000] < 3.125e-5


def test_the_jump_can_be_turned_off() -> None:
    optimization = Optimization(lr=1.0, warmup_steps=40, warmup_jump=False)
    assert optimization.rate(1.0, 40, 100) == 1.0
    assert optimization.rate(1.0, 100, 100) == pytest.approx(0.0)
    assert optimization.rate(1.0, 70, 100) == pytest.approx(0.5)
    jumping = Optimization(lr=1.0, warmup_steps=40, warmup_jump=True)
    assert jumping.rate(1.0, 39, 100) == pytest.approx(0.975)
    assert jumping.rate(1.0, 40, 100) == pytest.approx(0.6545, abs=1e-4)


def test_a_slower_group_warms_up_from_the_same_rate() -> None:
    """Timm's scheduler starts every group at warmup_lr; only the base differs."""
    first, second = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimization = Optimization(lr=1e-2, warmup_steps=10, warmup_lr=1e-5, warmup_jump=False)
    made = optimization.make([{"params": [first], "lr_scale": 0.1}, {"params": [second]}], 100, 32)
    schedule: WarmupSchedule = made["lr_scheduler"]["scheduler"]
    assert schedule.get_last_lr() == pytest.approx([1e-5, 1e-5])
    for _ in range(10):
        made["optimizer"].step()
        schedule.step()
    assert schedule.get_last_lr() == pytest.approx([1e-3, 1e-2])


def test_exponential_falls_by_steps() -> None:
    optimization = Optimization(schedule="exponential", gamma=0.9, decay_steps=3)
    found = [optimization.rate(1.0, k, 100) for k in range(7)]
    assert found == pytest.approx([1, 1, 1, 0.9, 0.9, 0.9, 0.81])


def test_state_continues() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    whole = rates(paper(), 60000, 32, 40)
    made = paper().make([{"params": [parameter]}], 60000, 32)
    made["lr_scheduler"]["scheduler"].load_state_dict({"last_epoch": 30})
    assert made["lr_scheduler"]["scheduler"].get_last_lr()[0] == pytest.approx(whole[30])
