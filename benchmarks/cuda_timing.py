"""Timing on a GPU: CUDA events around a run of calls, and the same run as a CUDA graph.

Each call gets the next of several input sets that together exceed the L2 cache twice, so no call
finds its input there. The graph variant removes the launch overhead of every implementation alike;
it is what a training loop under CUDA graphs sees, and the only fair view of launch-bound sizes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from benchmarks.harness import Timing

GRAPH_SUFFIX = " (CUDA graph)"
_MAX_SETS = 64


def interleave(
    functions: Mapping[str, Callable[..., Any]],
    make_inputs: Callable[[], tuple[Any, ...]],
    seconds: float,
    min_rounds: int = 7,
    graphs: bool = True,
) -> tuple[dict[str, Timing], dict[str, str]]:
    """Timings by name, graph variants included, and the reason for every variant left out."""
    from benchmarks.harness import Timing

    sets = rotating_inputs(make_inputs)
    runs: dict[str, Callable[[], Any]] = {}
    notes: dict[str, str] = {}
    for name, function in functions.items():
        runs[name] = _all_sets(function, sets)
        runs[name]()
        if graphs:
            try:
                runs[name + GRAPH_SUFFIX] = _captured(runs[name]).replay
            except RuntimeError as error:
                torch.cuda.synchronize()
                notes[name + GRAPH_SUFFIX] = f"cannot be captured: {str(error).splitlines()[0]}"

    samples: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    deadline = time.perf_counter() + seconds
    turn = 0
    while turn < min_rounds or time.perf_counter() < deadline:
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            runs[name]()
            end.record()
            end.synchronize()
            samples[name].append(1e-3 * start.elapsed_time(end) / len(sets))
        turn += 1
    return {name: Timing.of(values) for name, values in samples.items()}, notes


def rotating_inputs(make_inputs: Callable[[], tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Input sets of at least twice the L2 cache together; at least 4, at most 64."""
    first = make_inputs()
    size = sum(t.numel() * t.element_size() for t in first if isinstance(t, Tensor))
    cache = torch.cuda.get_device_properties("cuda").L2_cache_size
    count = min(_MAX_SETS, max(4, -(-2 * cache // max(1, size))))
    return [first, *(make_inputs() for _ in range(count - 1))]


def _all_sets(function: Callable[..., Any], sets: list[tuple[Any, ...]]) -> Callable[[], None]:
    def run() -> None:
        for inputs in sets:
            function(*inputs)

    return run


def _captured(run: Callable[[], Any]) -> torch.cuda.CUDAGraph:
    """The run as a graph, after the warm-up on a side stream that capture asks for."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph
