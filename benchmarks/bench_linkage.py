"""neighbor_mean, pivot_subgraphs and linkage_scores.

Peers: gathering, CSR products, subgraphs built in Python, and the dense padded network.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks.bench_knn import _faces
from benchmarks.harness import OURS, Case, Implementation, Workload, forward_backward
from benchmarks.peers import linkage as peers
from facekernels import ops, reference

_FEATURES = 256


def _graph(n: int, k: int, f: int, device: torch.device) -> tuple[Tensor, ...]:
    x = torch.randn(n, f, device=device)
    indptr = torch.arange(n + 1, device=device) * k
    return x, indptr, torch.randint(0, n, (n * k,), device=device)


def _mean_setup(n: int, k: int, f: int, backward: bool, device: torch.device) -> Workload:
    functions: dict[str, Implementation] = {
        OURS: ops.neighbor_mean,
        "torch CSR": peers.csr_mean,
        "gather + mean": partial(peers.gather_mean, k),
        "index_add": peers.scatter_mean,
    }
    exact: Implementation = reference.neighbor_mean
    if backward:
        functions = {
            name: forward_backward(function, [0])
            for name, function in functions.items()
            if name != "torch CSR"  # its backward densifies the graph
        }
        exact = forward_backward(exact, [0])

    def inputs() -> tuple[Tensor, ...]:
        x, indptr, indices = _graph(n, k, f, device)
        if not backward:
            return x, indptr, indices
        return x.requires_grad_(), indptr, indices, torch.randn(n, f, device=device)

    return Workload(
        make_inputs=inputs,
        implementations=functions,
        bytes=(4 * n * k * f + 4 * n * f + 8 * n * k) * (2 if backward else 1),
        reference=exact,
    )


def _mean(n: int, k: int, f: int, backward: bool = False, quick: bool = False) -> Case:
    mode = "forward + backward" if backward else "forward"
    setup = partial(_mean_setup, n, k, f, backward)
    return Case("neighbor_mean", f"N {n:,}, k {k}, F {f}", mode, setup, quick)


def _subgraph_setup(k1: int, k2: int, pivots: int, device: torch.device) -> Workload:
    def inputs() -> tuple[Tensor, ...]:
        knn = ops.knn_graph(_faces(4096, 64, device), max(k1, k2)).idx
        return knn, torch.arange(pivots, device=device)

    return Workload(
        make_inputs=inputs,
        implementations={
            OURS: lambda knn, p: ops.pivot_subgraphs(knn, p, (k1, k2), k2),
            "published style": lambda knn, p: peers.published_subgraphs(knn, p, (k1, k2), k2),
            "Python sets": lambda knn, p: reference.pivot_subgraphs(knn, p, (k1, k2), k2),
        },
        bytes=0,
    )


def _subgraphs(k1: int, k2: int, pivots: int, quick: bool = False) -> Case:
    setup = partial(_subgraph_setup, k1, k2, pivots)
    return Case("pivot_subgraphs", f"{pivots} pivots, [{k1}, {k2}]", "N 4,096", setup, quick)


def _linkage_setup(k1: int, k2: int, pivots: int, device: torch.device) -> Workload:
    d, hops = _FEATURES, (k1, k2)
    weights = peers.linkage_weights(d, device)
    products = 2 * (512 * 1024 + 512 * 512)  # of layers 2 and 3, per row; the others are smaller
    x = _faces(4096, d, device)
    knn = ops.knn_graph(x, k1).idx
    rows = len(ops.pivot_subgraphs(knn, torch.arange(pivots, device=device), hops, k2).nodes)
    return Workload(
        make_inputs=lambda: (x, knn, torch.arange(pivots, device=device)),
        implementations={
            OURS: lambda *a: ops.linkage_scores(*a, weights, k_at_hop=hops, active_connection=k2),
            "dense network": lambda *a: peers.dense_linkage(*a, weights, hops, k2),
            "published style": lambda *a: peers.published_linkage(*a, weights, hops, k2),
        },
        bytes=0,
        flops=rows * products,
        reference=lambda *a: reference.linkage_scores(
            *a, weights, k_at_hop=hops, active_connection=k2
        ),
        error_unit="probability",
    )


def _linkage(k1: int, k2: int, pivots: int, quick: bool = False) -> Case:
    setup = partial(_linkage_setup, k1, k2, pivots)
    return Case("linkage_scores", f"{pivots} pivots, [{k1}, {k2}]", "N 4,096, d 256", setup, quick)


CASES = [
    _mean(20000, 10, 512),
    _mean(20000, 80, 256),
    _mean(5000, 10, 256, quick=True),
    _mean(20000, 10, 512, backward=True),
    _subgraphs(20, 5, 64, quick=True),
    _subgraphs(80, 10, 32),
    _subgraphs(200, 10, 16),
    _linkage(20, 5, 64, quick=True),
    _linkage(80, 10, 32),
]


def bench_linkage(compare, case):
    """Collected by pytest; `facekernels bench` reads CASES."""
    compare(case)
