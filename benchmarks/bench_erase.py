"""erase_regions against RFM's published loop and batched rounds; erase_top_n against topk."""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.harness import OURS, Case, Workload, forward_backward
from benchmarks.peers import erase as peers
from benchmarks.peers.common import compiled
from facekernels import ops, reference


def _bytes(shape: tuple[int, ...]) -> int:
    """Image and map read, image written, in float32; the mask in bytes."""
    batch, channels, height, width = shape
    return batch * height * width * (8 * channels + 5)


def _regions(
    shape: tuple[int, ...], rounds: int, fill: str, backward: bool, device: torch.device
) -> Workload:
    def make_inputs() -> tuple[torch.Tensor, ...]:
        batch, _, height, width = shape
        images = torch.randn(shape, device=device, requires_grad=backward)
        attention = torch.randn(batch, 1, height, width, device=device).abs()
        inputs = (images, attention, ops.sample_rects(batch, rounds, height, width, device=device))
        return (*inputs, torch.randn(shape, device=device)) if backward else inputs

    seed = 1 if fill == "noise" else None
    functions = {OURS: lambda x, m, r: ops.erase_regions(x, m, r, fill, seed=seed).images}
    if fill == "zero":
        functions |= {
            "RFM loop": peers.rfm_loop,
            "eager": peers.torch_rounds,
            "torch.compile": compiled(peers.torch_rounds),
        }
    else:  # the mask, then torch's own generator
        functions["eager"] = lambda x, m, r: torch.where(
            peers.torch_rounds(torch.ones_like(x), m, r) == 0, torch.rand_like(x) * 2 - 1, x
        )

    def oracle(x: torch.Tensor, m: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        return reference.erase_regions(x, m, r)[0]

    if backward:
        functions = {name: forward_backward(f, [0]) for name, f in functions.items()}
        oracle = forward_backward(oracle, [0])
    return Workload(
        make_inputs,
        functions,
        _bytes(shape) * (2 if backward else 1),
        reference=oracle if fill == "zero" else None,  # the peer's noise is another
    )


def _top_n(shape: tuple[int, ...], n: int, kind: str, device: torch.device) -> Workload:
    def make_inputs() -> tuple[torch.Tensor, ...]:
        batch, _, height, width = shape
        attention = torch.randn(batch, 1, height, width, device=device)
        if kind == "quantised":
            attention = (attention * 8).round()
        elif kind == "after ReLU":
            attention = attention.clamp(min=0)
        elif kind == "zero":
            attention = torch.zeros_like(attention)
        return torch.randn(shape, device=device), attention

    functions = {
        OURS: lambda x, m: ops.erase_top_n(x, m, n).images,
        "topk, scatter": partial(peers.topk_erase, n=n),
        "topk, mask": partial(peers.topk_erase_masked, n=n),
        "torch.compile": compiled(partial(peers.topk_erase_masked, n=n)),
    }
    # Among equal cells topk erases any: only maps without ties can be compared.
    oracle = (lambda x, m: reference.erase_top_n(x, m, n)[0]) if kind == "random" else None
    return Workload(make_inputs, functions, _bytes(shape), reference=oracle)


def _region_case(
    shape: tuple[int, ...],
    rounds: int,
    fill: str = "zero",
    backward: bool = False,
    quick: bool = False,
) -> Case:
    size = f"{'x'.join(map(str, shape))} N={rounds}"
    mode = f"{fill}, {'forward+backward' if backward else 'forward'}"
    return Case(
        "erase_regions", size, mode, partial(_regions, shape, rounds, fill, backward), quick
    )


def _top_n_case(shape: tuple[int, ...], n: int, kind: str = "random", quick: bool = False) -> Case:
    size = f"{'x'.join(map(str, shape))} N={n}"
    return Case("erase_top_n", size, f"{kind} map", partial(_top_n, shape, n, kind), quick)


CASES = [
    _region_case((4, 3, 112, 112), 3, quick=True),
    _region_case((32, 3, 112, 112), 3),
    _region_case((32, 3, 112, 112), 10),
    _region_case((32, 3, 224, 224), 3),
    _region_case((32, 3, 112, 112), 3, "noise"),
    _region_case((32, 3, 112, 112), 3, backward=True),
    _top_n_case((4, 3, 56, 56), 31, quick=True),
    _top_n_case((32, 3, 112, 112), 125),
    _top_n_case((32, 3, 112, 112), 1254),
    _top_n_case((16, 3, 224, 224), 5017),
    *(_top_n_case((32, 3, 112, 112), 1254, kind) for kind in ("quantised", "after ReLU", "zero")),
]


def bench_erase(compare, case):
    """Collected by pytest; `facekernels bench` reads CASES."""
    compare(case)
