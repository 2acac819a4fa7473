"""decode_heatmaps against NumPy, OpenCV as published, and PyTorch, eager and compiled."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks.harness import OURS, Case, Implementation, Workload
from benchmarks.peers import heatmap as peers
from benchmarks.peers.common import compiled
from facekernels import ops, reference

_ARGMAX = {
    "NumPy": peers.numpy_argmax,
    "eager": peers.torch_argmax,
}
_SHIFT = {
    "NumPy loop": peers.numpy_shift_loop,
    "NumPy": peers.numpy_shift,
    "eager": peers.torch_shift,
}


def _peers(method: str) -> tuple[dict[str, Implementation], dict[str, str]]:
    """By name, and what is missing."""
    if method in ("argmax", "shift"):
        found: dict[str, Implementation] = dict(_ARGMAX if method == "argmax" else _SHIFT)
        return found | {"torch.compile": compiled(found["eager"])}, {}
    local = peers.torch_local_window(method)
    found = {
        "eager": peers.torch_full_map(method),
        "eager local window": local,
        "torch.compile local window": compiled(local),
    }
    try:
        return {"NumPy + OpenCV": peers.opencv_full_map(method)} | found, {}
    except ImportError as error:
        return found, {"NumPy + OpenCV": str(error)}


def heatmaps(
    shape: tuple[int, ...],
    device: torch.device,
    layout: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """What a pose network returns: a Gaussian of sigma 2 anywhere in each map, and noise."""
    b, k, height, width = shape
    x, y = torch.rand(b, k, 1, 1) * (width - 1), torch.rand(b, k, 1, 1) * (height - 1)
    squared = (torch.arange(width) - x) ** 2 + (torch.arange(height).unsqueeze(1) - y) ** 2
    maps = torch.exp(squared / -8) + 0.02 * torch.rand(shape)
    return maps.to(device, memory_format=layout)


def _setup(
    shape: tuple[int, ...], method: str, layout: torch.memory_format, device: torch.device
) -> Workload:
    others, missing = _peers(method)

    # The peers let UDP leave the map at its border.
    def decode(h: Tensor) -> tuple[Tensor, Tensor]:
        return ops.decode_heatmaps(h, method, clamp=False)[:2]

    def oracle(h: Tensor) -> tuple[Tensor, Tensor]:
        return reference.decode_heatmaps(h, method, clamp=False)[:2]

    return Workload(
        make_inputs=lambda: (heatmaps(shape, device, layout),),
        implementations={OURS: decode} | others,
        bytes=4 * shape[0] * shape[1] * shape[2] * shape[3],
        reference=oracle,
        error_unit="px",
        unavailable=missing,
    )


def _case(
    shape: tuple[int, ...],
    method: str,
    quick: bool = False,
    layout: torch.memory_format = torch.contiguous_format,
) -> Case:
    size = "x".join(map(str, shape)) + (" channels_last" if layout is torch.channels_last else "")
    return Case("decode_heatmaps", size, method, partial(_setup, shape, method, layout), quick)


CASES = [
    _case((1, 17, 64, 48), "shift"),
    *(
        _case(shape, method, quick=shape[0] == 32 and method in ("shift", "dark"))
        for shape in ((32, 17, 64, 48), (4, 133, 96, 72))
        for method in ("argmax", "shift", "dark", "udp")
    ),
    _case((32, 17, 64, 48), "udp", layout=torch.channels_last),
]


def bench_heatmap(compare, case):
    """Collected by pytest; `facekernels bench` reads CASES."""
    compare(case)
