"""connected_components against SciPy."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks.harness import OURS, Case, Implementation, Workload
from benchmarks.peers import components as peers
from facekernels import ops


def _edges(nodes: int, degree: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Links to random nodes, of the whole graph or of the own `size` nodes, and their scores."""
    own = torch.arange(nodes).repeat_interleave(degree)
    near = own // size * size if size else torch.zeros_like(own)
    other = near + torch.randint(0, size or nodes, (len(own),))
    edges = torch.stack((own, other.clamp(max=nodes - 1)), 1)
    return edges.to(device), torch.rand(len(own), device=device)


def _setup(
    nodes: int, degree: int, size: int, threshold: float | None, device: torch.device
) -> Workload:
    functions: dict[str, Implementation] = {
        OURS: lambda e, s: ops.connected_components(
            e, nodes, scores=None if threshold is None else s, threshold=threshold
        )
    }
    missing = {}
    try:
        functions["scipy"] = peers.scipy_components(nodes, threshold)
    except ImportError as error:
        missing["scipy"] = str(error)
    return Workload(
        make_inputs=lambda: _edges(nodes, degree, size, device),
        implementations=functions,
        bytes=nodes * degree * (16 if threshold is None else 20),
        unavailable=missing,
    )


def _case(
    nodes: int, degree: int, size: int, threshold: float | None = None, quick: bool = False
) -> Case:
    where = f"within {size} nodes" if size else "anywhere"
    mode = where if threshold is None else f"{where}, score >= {threshold}"
    return Case(
        "connected_components", f"{nodes:,} nodes, {nodes * degree:,} edges", mode,
        partial(_setup, nodes, degree, size, threshold), quick,
    )  # fmt: skip


CASES = [
    _case(100_000, 8, 70, quick=True),
    _case(1_000_000, 8, 70),
    _case(1_000_000, 8, 0),
    _case(1_000_000, 8, 0, 0.7),
]


def bench_components(compare, case):
    """Collected by pytest; `facekernels bench` reads CASES."""
    compare(case)
