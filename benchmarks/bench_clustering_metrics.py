"""BCubed and pairwise scores of many labels against the form with np.unique."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import OURS, Case, Workload
from benchmarks.peers import clustering_metrics as peers
from facekernels import metrics

_PER_IDENTITY = 68


def _labels(n: int) -> tuple[Tensor, Tensor]:
    """Identities, and clusters that hold three quarters of each and split the rest."""
    true = torch.randint(0, n // _PER_IDENTITY, (n,))
    other = torch.randint(0, 2 * n // _PER_IDENTITY, (n,))
    return true, torch.where(torch.rand(n) < 0.75, true, other)


def _setup(score: str, n: int, device: torch.device) -> Workload:
    ours, peer = getattr(metrics, score), getattr(peers, f"unique_{score}")
    return Workload(
        make_inputs=lambda: _labels(n),
        implementations={
            OURS: lambda true, pred: np.array(ours(true.numpy(), pred.numpy())),
            "np.unique": lambda true, pred: np.array(peer(true.numpy(), pred.numpy())),
        },
        bytes=16 * n,
        reference=lambda true, pred: np.array(peer(true.numpy(), pred.numpy())),
    )


def _case(score: str, n: int, quick: bool = False) -> Case:
    setup = partial(_setup, score, n)
    return Case("clustering_metrics", f"{n:,} labels", score, setup, quick, ("cpu",))


CASES = [
    _case("bcubed_f", 100_000, quick=True),
    _case("bcubed_f", 1_000_000),
    _case("pairwise_f", 1_000_000),
]


def bench_clustering_metrics(compare, case):
    """Collected by pytest; `facekernels bench` reads CASES."""
    compare(case)
