"""knn_graph against faiss' exact search, chunked matrix products with topk, and hnswlib."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.harness import OURS, Case, Implementation, Workload
from benchmarks.peers import knn as peers
from facekernels import ops

_PER_IDENTITY = 68


def _faces(n: int, d: int, device: torch.device) -> Tensor:
    """Unit vectors around one centre per identity, in random order."""
    centers = F.normalize(torch.randn(max(n // _PER_IDENTITY, 1), d))
    noise = (0.5 + 0.9 * torch.rand(n, 1)) * torch.randn(n, d) / d**0.5
    return F.normalize(centers[torch.randint(0, len(centers), (n,))] + noise).to(device)


_LARGE = 50_000  # rows from which a call takes many seconds


def _setup(n: int, d: int, k: int, approximate: bool, device: torch.device) -> Workload:
    functions: dict[str, Implementation] = {
        OURS: lambda x: ops.knn_graph(x, k).sim,
        "torch mm + topk": lambda x: peers.torch_knn(x, k)[0],
    }
    missing = {}
    wanted: dict[str, Callable[[int], Implementation]] = {"faiss IndexFlatIP": peers.faiss_knn}
    if approximate:
        wanted["hnswlib (approximate)"] = peers.hnsw_knn
    for name, make in wanted.items():
        try:
            functions[name] = make(k)
        except ImportError as error:
            missing[name] = str(error)
    return Workload(
        make_inputs=lambda: (_faces(n, d, device),),
        implementations=functions,
        bytes=4 * n * d + 12 * n * k,
        flops=n * n * d,  # the upper triangle
        # Of the large ones the float64 matrix does not fit into memory.
        reference=None if n >= _LARGE else lambda x: (x @ x.T).topk(k + 1).values[:, 1:],
        error_unit="cosine",
        unavailable=missing,
    )


def _case(n: int, d: int, k: int, quick: bool = False) -> Case:
    return Case(
        "knn_graph", f"N {n:,}, d {d}, k {k}", "cosine", partial(_setup, n, d, k, quick), quick,
        min_rounds=2 if n >= _LARGE else 3 if n >= 20_000 else 7,
    )  # fmt: skip


CASES = [
    _case(4096, 256, 80, quick=True),
    _case(20480, 256, 80),
    _case(20480, 512, 80),
    _case(51200, 256, 80),
]


def bench_knn(compare, case):
    """Collected by pytest; `facekernels bench` reads CASES."""
    compare(case)
