"""nn.PartialFC and nn.RowwiseAdamW: sampling, shards against one process, the published optimizer's
defect, equality with torch.optim.AdamW, errors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist

from facekernels import ops
from facekernels.nn import PartialFC, RowwiseAdamW


def test_without_sampling_it_is_the_op() -> None:
    torch.manual_seed(0)
    head = PartialFC(12, 40, 30.0, (1.0, 0.5, 0.0), gradient="straight_through")
    assert list(head.state_dict()) == ["weight"]
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.1)
    e, labels = torch.randn(6, 12).half(), torch.randint(40, (6,))
    want = ops.margin_cross_entropy(
        e.float(), head.weight, labels, 30.0, (1.0, 0.5, 0.0), gradient="straight_through"
    )
    assert head(e, labels).item() == want.item()


def test_samples_hold_the_labels_and_random_others() -> None:
    head = PartialFC(4, 1000, sample_rate=0.1, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([5, 999, 5, -1, 0])
    times = torch.zeros(1000)
    for _ in range(400):
        index = head.sample(labels)
        assert index.shape == (100,)
        assert (index[1:] > index[:-1]).all()
        assert set(index.tolist()) >= {0, 5, 999}
        times[index] += 1
    others = torch.cat((times[1:5], times[6:999]))  # each in 97 / 997 of 400 draws
    assert others.mean().item() == pytest.approx(400 * 97 / 997)
    assert others.std().item() == pytest.approx((400 * 97 / 997 * 900 / 997) ** 0.5, rel=0.1)


def test_more_labels_than_the_rate_asks_for() -> None:
    head = PartialFC(4, 50, sample_rate=0.1)
    assert head.sample(torch.arange(20)).tolist() == list(range(20))
    assert head.sample(torch.tensor([7] * 20)).shape == (5,)


def test_sampling_is_for_training_only() -> None:
    torch.manual_seed(0)
    head = PartialFC(8, 60, sample_rate=0.2)
    e, labels = torch.randn(5, 8), torch.arange(5)
    full = ops.margin_cross_entropy(e, head.weight, labels).item()
    assert head(e, labels).item() < full
    assert head.eval()(e, labels).item() == full


def test_every_head_beside_it_trains() -> None:
    """The published optimizer puts the sampled centres into the last group's first parameter, which
    then never changes. Here the order of groups is that of the published trainer.
    """
    torch.manual_seed(0)
    backbone, heads = nn.Linear(6, 8), nn.ModuleList(nn.Linear(8, n) for n in (2, 1, 7))
    centres = PartialFC(8, 50, sample_rate=0.3)
    modules = (backbone, centres, heads)
    optimizer = RowwiseAdamW([{"params": m.parameters()} for m in modules], lr=1e-2)
    before = [p.detach().clone() for m in modules for p in m.parameters()]
    for step in range(3):
        e = backbone(torch.randn(10, 6))
        loss = centres(e, torch.arange(10) + step) + sum(h(e).square().mean() for h in heads)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for p, old in zip((p for m in modules for p in m.parameters()), before, strict=True):
        assert not torch.equal(p, old)


def test_rows_that_are_not_sampled_neither_move_nor_decay() -> None:
    torch.manual_seed(0)
    head = PartialFC(8, 50, sample_rate=0.2)
    optimizer = RowwiseAdamW(head.parameters(), lr=1e-2, weight_decay=0.5)
    before = head.weight.detach().clone()
    head(torch.randn(5, 8), torch.arange(5)).backward()
    assert head.weight.grad is not None
    rows = head.weight.grad._indices()[0]
    optimizer.step()
    changed = (head.weight != before).any(1)
    assert changed.nonzero()[:, 0].tolist() == rows.tolist()


def _steps(optimizer: torch.optim.Optimizer, parameters: list[Tensor], grads: Any) -> None:
    for step in grads:
        for p, g in zip(parameters, step, strict=True):
            p.grad = g
        optimizer.step()


def test_dense_gradients_are_adamws_and_sparse_ones_use_its_formula() -> None:
    gen = torch.Generator().manual_seed(0)
    start = [torch.randn(6, 3, generator=gen), torch.randn(5, generator=gen)]
    ours, theirs = ([t.clone().requires_grad_() for t in start] for _ in range(2))
    options: dict[str, Any] = {"lr": 0.05, "betas": (0.8, 0.95), "weight_decay": 0.1}
    mine, adamw = RowwiseAdamW(ours, **options), torch.optim.AdamW(theirs, **options)
    dense = [[torch.randn(t.shape, generator=gen) for t in start] for _ in range(4)]
    every_row = [[a.to_sparse(1), b] for a, b in dense]
    _steps(mine, ours, dense[:2] + every_row[2:])  # changing to sparse on the way
    _steps(adamw, theirs, dense)
    assert torch.equal(ours[1], theirs[1])
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-6, atol=1e-7)
    mine.load_state_dict(adamw.state_dict())
    states = (o.state_dict()["state"][0] for o in (mine, adamw))
    for a, b in zip(*(s.values() for s in states), strict=True):
        assert torch.equal(a, b)


def test_sparse_steps_by_hand() -> None:
    """First step: the moments' ratio is the sign of the gradient, so a row moves by lr."""
    p = torch.tensor([[1.0], [2.0], [3.0]], requires_grad=True)
    optimizer = RowwiseAdamW([p], lr=0.1, weight_decay=0.5)
    rows, values = torch.tensor([[2, 0, 2]]), torch.tensor([[1.0], [-4.0], [1.0]])
    p.grad = torch.sparse_coo_tensor(rows, values, (3, 1), check_invariants=True)
    loss = optimizer.step(lambda: torch.tensor(7.0))
    assert loss.item() == 7
    assert p.detach().flatten().tolist() == pytest.approx([1 * 0.95 + 0.1, 2, 3 * 0.95 - 0.1])
    assert p.grad is not None
    hooked: list[int] = []
    optimizer.register_step_post_hook(lambda *_: hooked.append(1))
    optimizer.step()
    assert hooked == [1]


def test_a_gradient_that_is_sparse_in_elements_is_refused() -> None:
    p = torch.ones(2, 2, requires_grad=True)
    p.grad = torch.eye(2).to_sparse()
    with pytest.raises(ValueError, match="must have 1 sparse dimension, got 2"):
        RowwiseAdamW([p]).step()


# ---- Two processes

CLASSES, DIM, BATCH = 11, 6, 8


def _problem() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    gen = torch.Generator().manual_seed(3)
    w = torch.randn(CLASSES, DIM, generator=gen, dtype=torch.float64)
    e = torch.randn(BATCH, DIM, generator=gen, dtype=torch.float64)
    labels = torch.tensor([0, 5, 6, 10, 3, -1, 5, 9])
    index = torch.tensor([0, 2, 3, 5, 6, 7, 9, 10])  # sampled
    return e, w, labels, index


def _worker(rank: int, folder: str, world: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world)
    e, w, labels, index = _problem()
    group = dist.group.WORLD
    results = {}
    for name, margins in (("cosface", (1.0, 0.0, 0.4)), ("arcface", (1.0, 0.5, 0.0))):
        for sampled in (False, True):
            head = PartialFC(
                DIM, CLASSES, 16.0, margins, 0.5 if sampled else 1.0, group=group, for_ddp=False
            ).double()
            first, own = head.first_class, head.weight.shape[0]
            head.weight.data.copy_(w[first : first + own])
            here = index[(index >= first) & (index < first + own)] - first
            head.sample = lambda local, here=here: here  # type: ignore[method-assign]
            rows = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
            mine = e[rows].clone().requires_grad_()
            loss = head(mine, labels[rows])
            loss.backward()
            assert head.weight.grad is not None
            dense = head.weight.grad.to_dense()
            results[name, sampled] = loss.detach(), mine.grad, dense
    ddp = PartialFC(DIM, CLASSES, 16.0, group=group).double()
    ddp.weight.data.copy_(w[ddp.first_class : ddp.first_class + ddp.weight.shape[0]])
    mine = e[rows].clone().requires_grad_()
    ddp(mine, labels[rows]).backward()
    results["ddp"] = mine.grad
    try:
        twice = e.clone().requires_grad_()
        (g,) = torch.autograd.grad(ddp(twice[rows], labels[rows]), twice, create_graph=True)
        g.sum().backward()
    except RuntimeError as error:
        results["twice"] = str(error)
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_worker, (str(tmp_path), 2), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    e, w, labels, index = _problem()
    for name, margins in (("cosface", (1.0, 0.0, 0.4)), ("arcface", (1.0, 0.5, 0.0))):
        for sampled in (False, True):
            leaves = [t.clone().requires_grad_() for t in (e, w)]
            loss = ops.margin_cross_entropy(
                *leaves, labels, 16.0, margins, sample_index=index if sampled else None,
                sparse_grad=False,
            )  # fmt: skip
            d_e, d_w = torch.autograd.grad(loss, leaves)
            losses, d_es, d_ws = zip(*(p[name, sampled] for p in parts), strict=True)
            for got in losses:
                assert got.item() == pytest.approx(loss.item(), rel=1e-10)
            torch.testing.assert_close(torch.cat(d_es), d_e, rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(torch.cat(d_ws), d_w, rtol=1e-10, atol=1e-12)
            if name == "cosface" and not sampled:
                scaled = torch.cat([p["ddp"] for p in parts])
                torch.testing.assert_close(scaled, 2 * d_e, rtol=1e-10, atol=1e-12)
    assert "once_differentiable" in parts[0]["twice"]


# ---- Errors


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_classes": 0}, ValueError, "num_classes must be at least 1, got 0"),
        ({"embedding_dim": 1.5}, TypeError, "embedding_dim must be an integer"),
        ({"sample_rate": 0}, ValueError, "sample_rate must be above 0 and at most 1, got 0"),
        ({"sample_rate": 1.5}, ValueError, "sample_rate must be above 0 and at most 1, got 1.5"),
    ],
)
def test_constructor_errors(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        PartialFC(**{"embedding_dim": 4, "num_classes": 5, **options})


@pytest.mark.parametrize(
    ("embeddings", "labels", "error", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2).long(), ValueError, r"embeddings must be \[B, 4\]"),
        (torch.zeros(2, 4), torch.zeros(3).long(), ValueError, r"labels must be \[B\] = \(2\)"),
        (torch.zeros(2, 4), torch.zeros(2), TypeError, "labels must be int64, got float32"),
        (torch.zeros(2, 4), torch.full((2,), 9), ValueError, "labels must be between 0 and 4"),
        (torch.zeros(2, 4).long(), torch.zeros(2).long(), TypeError, "embeddings must be float32"),
    ],
)
def test_call_errors(
    embeddings: Tensor, labels: Tensor, error: type[Exception], message: str
) -> None:
    for rate in (1.0, 0.5):
        with pytest.raises(error, match=message):
            PartialFC(4, 5, sample_rate=rate)(embeddings, labels)
